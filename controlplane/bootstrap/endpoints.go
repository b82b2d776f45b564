package bootstrap

import (
	"context"
	"errors"
	"fmt"
	"net/netip"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	apiequality "k8s.io/apimachinery/pkg/api/equality"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/intstr"
	"k8s.io/utils/ptr"
)

// kubernetesEndpoints points the kubernetes Service at this server, the only one of the cluster.
// A server on a loopback address serves this host only: endpoints may not be loopback addresses, and none are made.
func kubernetesEndpoints(ctx context.Context, c Config) error {
	if c.AdvertiseIP.IsLoopback() {
		return nil
	}
	return errors.Join(endpointSlice(ctx, c), legacyEndpoints(ctx, c))
}

func endpointSlice(ctx context.Context, c Config) error {
	want := &discoveryv1.EndpointSlice{
		ObjectMeta:  metav1.ObjectMeta{Name: "kubernetes", Labels: map[string]string{discoveryv1.LabelServiceName: "kubernetes"}},
		AddressType: discoveryv1.AddressType(family(c.AdvertiseIP)),
		Endpoints: []discoveryv1.Endpoint{{
			Addresses: []string{c.AdvertiseIP.String()}, Conditions: discoveryv1.EndpointConditions{Ready: ptr.To(true)},
		}},
		Ports: []discoveryv1.EndpointPort{{Name: ptr.To("https"), Port: ptr.To(int32(c.Port)), Protocol: ptr.To(corev1.ProtocolTCP)}},
	}
	client := c.Client.DiscoveryV1().EndpointSlices(metav1.NamespaceDefault)
	got, err := client.Get(ctx, want.Name, metav1.GetOptions{})
	switch {
	case apierrors.IsNotFound(err):
		_, err = client.Create(ctx, want, metav1.CreateOptions{})
		err = ignoreExists(err)
	case err != nil:
	case got.AddressType != want.AddressType:
		// The address type cannot change: the host moved to another family.
		if err = client.Delete(ctx, want.Name, metav1.DeleteOptions{}); err == nil {
			_, err = client.Create(ctx, want, metav1.CreateOptions{})
		}
	default:
		if apiequality.Semantic.DeepEqual(got.Endpoints, want.Endpoints) && apiequality.Semantic.DeepEqual(got.Ports, want.Ports) {
			return nil
		}
		got.Endpoints, got.Ports = want.Endpoints, want.Ports
		_, err = client.Update(ctx, got, metav1.UpdateOptions{})
	}
	return wrap(err, "set EndpointSlice \"default/kubernetes\"")
}

func legacyEndpoints(ctx context.Context, c Config) error {
	//nolint:staticcheck // Endpoints is deprecated and still read by older clients
	want := &corev1.Endpoints{
		ObjectMeta: metav1.ObjectMeta{Name: "kubernetes", Labels: map[string]string{discoveryv1.LabelSkipMirror: "true"}},
		Subsets: []corev1.EndpointSubset{{
			Addresses: []corev1.EndpointAddress{{IP: c.AdvertiseIP.String()}},
			Ports:     []corev1.EndpointPort{{Name: "https", Port: int32(c.Port), Protocol: corev1.ProtocolTCP}},
		}},
	}
	client := c.Client.CoreV1().Endpoints(metav1.NamespaceDefault)
	got, err := client.Get(ctx, want.Name, metav1.GetOptions{})
	switch {
	case apierrors.IsNotFound(err):
		_, err = client.Create(ctx, want, metav1.CreateOptions{})
		err = ignoreExists(err)
	case err == nil && !(apiequality.Semantic.DeepEqual(got.Subsets, want.Subsets) && got.Labels[discoveryv1.LabelSkipMirror] == "true"):
		got.Subsets, got.Labels = want.Subsets, want.Labels
		_, err = client.Update(ctx, got, metav1.UpdateOptions{})
	}
	return wrap(err, "set Endpoints \"default/kubernetes\"")
}

func family(ip netip.Addr) corev1.IPFamily {
	if ip.Unmap().Is4() {
		return corev1.IPv4Protocol
	}
	return corev1.IPv6Protocol
}

func intOrString(port int) intstr.IntOrString { return intstr.FromInt32(int32(port)) }

func ignoreExists(err error) error {
	if apierrors.IsAlreadyExists(err) {
		return nil
	}
	return err
}

func wrap(err error, doing string) error {
	if err == nil {
		return nil
	}
	return fmt.Errorf("%s: %w", doing, err)
}
