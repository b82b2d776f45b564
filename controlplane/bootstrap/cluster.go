package bootstrap

import (
	"context"
	"errors"
	"fmt"

	corev1 "k8s.io/api/core/v1"
	networkingv1 "k8s.io/api/networking/v1"
	schedulingv1 "k8s.io/api/scheduling/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/utils/ptr"
)

func namespaces(ctx context.Context, c Config) error {
	var errs []error
	for _, name := range []string{
		metav1.NamespaceDefault, metav1.NamespaceSystem, metav1.NamespacePublic, corev1.NamespaceNodeLease,
	} {
		// Asked first: at every start but the first it is there, and a read is cheaper than a refused write.
		_, err := c.Client.CoreV1().Namespaces().Get(ctx, name, metav1.GetOptions{})
		if apierrors.IsNotFound(err) {
			_, err = c.Client.CoreV1().Namespaces().Create(ctx, &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: name}}, metav1.CreateOptions{})
			err = ignoreExists(err)
		}
		if err != nil {
			errs = append(errs, fmt.Errorf("create namespace %q: %w", name, err))
		}
	}
	return errors.Join(errs...)
}

// priorityClasses are the two that system pods name; their values are fixed by the Kubernetes API.
func priorityClasses(ctx context.Context, c Config) error {
	var errs []error
	for _, class := range []schedulingv1.PriorityClass{
		{
			ObjectMeta: metav1.ObjectMeta{Name: "system-cluster-critical"}, Value: 2000000000,
			Description: "Used for system critical pods that must run in the cluster, but can be moved to another node if necessary.",
		},
		{
			ObjectMeta: metav1.ObjectMeta{Name: "system-node-critical"}, Value: 2000001000,
			Description: "Used for system critical pods that must not be moved from their current node.",
		},
	} {
		_, err := c.Client.SchedulingV1().PriorityClasses().Get(ctx, class.Name, metav1.GetOptions{})
		if apierrors.IsNotFound(err) {
			_, err = c.Client.SchedulingV1().PriorityClasses().Create(ctx, &class, metav1.CreateOptions{})
			err = ignoreExists(err)
		}
		if err != nil {
			errs = append(errs, fmt.Errorf("create priority class %q: %w", class.Name, err))
		}
	}
	return errors.Join(errs...)
}

// serviceCIDR shows the configured ranges as the ServiceCIDR named kubernetes.
func serviceCIDR(ctx context.Context, c Config) error {
	cidrs := make([]string, len(c.ServiceCIDRs))
	for i, p := range c.ServiceCIDRs {
		cidrs[i] = p.Masked().String()
	}
	client := c.Client.NetworkingV1().ServiceCIDRs()
	got, err := client.Get(ctx, "kubernetes", metav1.GetOptions{})
	if apierrors.IsNotFound(err) {
		got, err = client.Create(ctx, &networkingv1.ServiceCIDR{
			ObjectMeta: metav1.ObjectMeta{Name: "kubernetes"}, Spec: networkingv1.ServiceCIDRSpec{CIDRs: cidrs},
		}, metav1.CreateOptions{})
	}
	if err != nil {
		return fmt.Errorf("create ServiceCIDR \"kubernetes\": %w", ignoreExists(err))
	}
	for _, condition := range got.Status.Conditions {
		if condition.Type == networkingv1.ServiceCIDRConditionReady && condition.Status == metav1.ConditionTrue {
			return nil
		}
	}
	got.Status.Conditions = append(got.Status.Conditions, metav1.Condition{
		Type: networkingv1.ServiceCIDRConditionReady, Status: metav1.ConditionTrue, LastTransitionTime: metav1.Now(),
		Reason: "NetworkReady", Message: "Kubernetes default Service CIDR is ready",
	})
	if _, err := client.UpdateStatus(ctx, got, metav1.UpdateOptions{}); err != nil {
		return fmt.Errorf("set ServiceCIDR \"kubernetes\" ready: %w", err)
	}
	return nil
}

// kubernetesService is how pods reach the API: the first address of the service range, no selector.
func kubernetesService(ctx context.Context, c Config) error {
	client := c.Client.CoreV1().Services(metav1.NamespaceDefault)
	_, err := client.Get(ctx, "kubernetes", metav1.GetOptions{})
	if !apierrors.IsNotFound(err) {
		return wrap(err, "get Service \"default/kubernetes\"")
	}
	ip := c.ServiceCIDRs[0].Masked().Addr().Next().String()
	_, err = client.Create(ctx, &corev1.Service{
		ObjectMeta: metav1.ObjectMeta{
			Name: "kubernetes", Labels: map[string]string{"provider": "kubernetes", "component": "apiserver"},
		},
		Spec: corev1.ServiceSpec{
			Type: corev1.ServiceTypeClusterIP, ClusterIP: ip, ClusterIPs: []string{ip},
			IPFamilyPolicy: ptr.To(corev1.IPFamilyPolicySingleStack), IPFamilies: []corev1.IPFamily{family(c.ServiceCIDRs[0].Addr())},
			SessionAffinity: corev1.ServiceAffinityNone,
			Ports:           []corev1.ServicePort{{Name: "https", Port: 443, Protocol: corev1.ProtocolTCP, TargetPort: intOrString(c.Port)}},
		},
	}, metav1.CreateOptions{})
	return wrap(ignoreExists(err), "create Service \"default/kubernetes\"")
}

// dnsService is the name and address that pods' resolv.conf points to. Each node answers on the address by itself, so
// the Service carries no selector and a label that tells every proxy to leave it alone.
func dnsService(ctx context.Context, c Config) error {
	if !c.ClusterDNS.IsValid() {
		return nil
	}
	client := c.Client.CoreV1().Services(metav1.NamespaceSystem)
	_, err := client.Get(ctx, "kube-dns", metav1.GetOptions{})
	if !apierrors.IsNotFound(err) {
		return wrap(err, "get Service \"kube-system/kube-dns\"")
	}
	_, err = client.Create(ctx, &corev1.Service{
		ObjectMeta: metav1.ObjectMeta{Name: "kube-dns", Labels: map[string]string{
			"k8s-app": "kube-dns", "kubernetes.io/name": "CoreDNS", "service.kubernetes.io/service-proxy-name": "reeve-dns",
		}},
		Spec: corev1.ServiceSpec{
			Type: corev1.ServiceTypeClusterIP, ClusterIP: c.ClusterDNS.String(), ClusterIPs: []string{c.ClusterDNS.String()},
			Ports: []corev1.ServicePort{
				{Name: "dns", Port: 53, Protocol: corev1.ProtocolUDP, TargetPort: intOrString(53)},
				{Name: "dns-tcp", Port: 53, Protocol: corev1.ProtocolTCP, TargetPort: intOrString(53)},
				{Name: "metrics", Port: 9153, Protocol: corev1.ProtocolTCP, TargetPort: intOrString(9153)},
			},
		},
	}, metav1.CreateOptions{})
	return wrap(ignoreExists(err), "create Service \"kube-system/kube-dns\"")
}
