package controlplane

import (
	"context"
	"encoding/json"
	"fmt"
	"strings"
	"testing"

	appsv1 "k8s.io/api/apps/v1"
	autoscalingv1 "k8s.io/api/autoscaling/v1"
	autoscalingv2 "k8s.io/api/autoscaling/v2"
	certificatesv1 "k8s.io/api/certificates/v1"
	corev1 "k8s.io/api/core/v1"
	eventsv1 "k8s.io/api/events/v1"
	policyv1 "k8s.io/api/policy/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"
	"k8s.io/utils/ptr"
)

func pod(name string) *corev1.Pod {
	return &corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{Name: name},
		Spec:       corev1.PodSpec{Containers: []corev1.Container{{Name: "c", Image: "busybox"}}},
	}
}

func deployment(name string) *appsv1.Deployment {
	labels := map[string]string{"app": name}
	return &appsv1.Deployment{
		ObjectMeta: metav1.ObjectMeta{Name: name},
		Spec: appsv1.DeploymentSpec{
			Selector: &metav1.LabelSelector{MatchLabels: labels},
			Template: corev1.PodTemplateSpec{ObjectMeta: metav1.ObjectMeta{Labels: labels}, Spec: pod("").Spec},
		},
	}
}

// createPod creates the pod once the admission informers know its namespace's service account.
func (c *cluster) createPod(t testing.TB, namespace string, p *corev1.Pod) *corev1.Pod {
	t.Helper()
	var out *corev1.Pod
	eventually(t, "create pod "+p.Name, func(ctx context.Context) (err error) {
		out, err = c.client.CoreV1().Pods(namespace).Create(ctx, p, metav1.CreateOptions{})
		return err
	})
	return out
}

func TestScale(t *testing.T) {
	c := sharedCluster(t)
	ns, ctx := c.namespace(t, "scale"), within(t)
	client := c.client.AppsV1().Deployments(ns)
	if _, err := client.Create(ctx, deployment("d"), metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	scale, err := client.GetScale(ctx, "d", metav1.GetOptions{})
	if err != nil {
		t.Fatal(err)
	}
	if scale.Spec.Replicas != 1 || scale.Status.Selector != "app=d" {
		t.Errorf("scale = %+v", scale)
	}
	scale.Spec.Replicas = 4
	if scale, err = client.UpdateScale(ctx, "d", scale, metav1.UpdateOptions{}); err != nil || scale.Spec.Replicas != 4 {
		t.Fatalf("update scale: %v, %v", scale, err)
	}
	d, err := client.Get(ctx, "d", metav1.GetOptions{})
	if err != nil || *d.Spec.Replicas != 4 || d.Generation != 2 {
		t.Errorf("deployment after scale: %d replicas, generation %d, %v", *d.Spec.Replicas, d.Generation, err)
	}
	scale.Spec.Replicas = -1
	if _, err := client.UpdateScale(ctx, "d", scale, metav1.UpdateOptions{}); !apierrors.IsInvalid(err) {
		t.Errorf("scale to -1: %v, want Invalid", err)
	}
	if _, err := client.ApplyScale(ctx, "d", nil, metav1.ApplyOptions{FieldManager: "x"}); err == nil {
		t.Error("apply of a nil scale passed")
	}
	if _, err := client.Patch(ctx, "d", types.MergePatchType, []byte(`{"spec":{"replicas":2}}`), metav1.PatchOptions{}, "scale"); err != nil {
		t.Errorf("patch scale: %v", err)
	}
}

func TestBindingSetsTheNodeOnce(t *testing.T) {
	c := sharedCluster(t)
	ns, ctx := c.namespace(t, "binding"), within(t)
	p := c.createPod(t, ns, pod("p"))
	if p.Status.Phase != corev1.PodPending || p.Status.QOSClass != corev1.PodQOSBestEffort || p.Generation != 1 {
		t.Errorf("new pod: %+v, generation %d", p.Status, p.Generation)
	}
	bind := func(uid types.UID) error {
		return c.client.CoreV1().Pods(ns).Bind(ctx, &corev1.Binding{
			ObjectMeta: metav1.ObjectMeta{Name: "p", UID: uid, Annotations: map[string]string{"by": "me"}},
			Target:     corev1.ObjectReference{Kind: "Node", Name: "n1"},
		}, metav1.CreateOptions{})
	}
	if err := bind("another"); err == nil {
		t.Error("bound a pod of another UID")
	}
	if err := bind(p.UID); err != nil {
		t.Fatal(err)
	}
	if err := bind(p.UID); !apierrors.IsConflict(err) {
		t.Errorf("second binding: %v, want a conflict", err)
	}
	p, err := c.client.CoreV1().Pods(ns).Get(ctx, "p", metav1.GetOptions{})
	if err != nil || p.Spec.NodeName != "n1" || p.Annotations["by"] != "me" || len(p.Status.Conditions) != 1 ||
		p.Status.Conditions[0].Type != corev1.PodScheduled || p.Status.Conditions[0].Status != corev1.ConditionTrue {
		t.Errorf("bound pod: %+v, %v", p, err)
	}
	// Scheduled now: a delete waits for the node.
	if err := c.client.CoreV1().Pods(ns).Delete(ctx, "p", metav1.DeleteOptions{}); err != nil {
		t.Fatal(err)
	}
	p, err = c.client.CoreV1().Pods(ns).Get(ctx, "p", metav1.GetOptions{})
	if err != nil || p.DeletionTimestamp == nil || *p.DeletionGracePeriodSeconds != 30 {
		t.Errorf("deleted pod: %v, %v; want it there for 30 s", p.DeletionTimestamp, err)
	}
	zero := int64(0)
	if err := c.client.CoreV1().Pods(ns).Delete(ctx, "p", metav1.DeleteOptions{GracePeriodSeconds: &zero}); err != nil {
		t.Fatal(err)
	}
	if _, err = c.client.CoreV1().Pods(ns).Get(ctx, "p", metav1.GetOptions{}); !apierrors.IsNotFound(err) {
		t.Errorf("pod deleted by its node: %v, want NotFound", err)
	}
}

func TestEvictionHeedsTheBudget(t *testing.T) {
	c := sharedCluster(t)
	ns, ctx := c.namespace(t, "eviction"), within(t)
	p := pod("p")
	p.Labels = map[string]string{"app": "p"}
	p.Spec.NodeName = "n1"
	p = c.createPod(t, ns, p)
	p.Status.Phase = corev1.PodRunning
	p.Status.Conditions = []corev1.PodCondition{{Type: corev1.PodReady, Status: corev1.ConditionTrue}}
	if _, err := c.client.CoreV1().Pods(ns).UpdateStatus(ctx, p, metav1.UpdateOptions{}); err != nil {
		t.Fatal(err)
	}
	pdb, err := c.client.PolicyV1().PodDisruptionBudgets(ns).Create(ctx, &policyv1.PodDisruptionBudget{
		ObjectMeta: metav1.ObjectMeta{Name: "b"},
		Spec:       policyv1.PodDisruptionBudgetSpec{Selector: &metav1.LabelSelector{MatchLabels: p.Labels}},
	}, metav1.CreateOptions{})
	if err != nil {
		t.Fatal(err)
	}
	// A budget whose controller has looked and allows nothing; one that nobody has looked at asks to come back later.
	pdb.Status = policyv1.PodDisruptionBudgetStatus{ObservedGeneration: pdb.Generation, CurrentHealthy: 1, DesiredHealthy: 1, ExpectedPods: 1}
	if pdb, err = c.client.PolicyV1().PodDisruptionBudgets(ns).UpdateStatus(ctx, pdb, metav1.UpdateOptions{}); err != nil {
		t.Fatal(err)
	}
	evict := func() error {
		return c.client.CoreV1().Pods(ns).EvictV1(ctx, &policyv1.Eviction{ObjectMeta: metav1.ObjectMeta{Name: "p"}})
	}
	if err := evict(); !apierrors.IsTooManyRequests(err) {
		t.Errorf("eviction against the budget: %v, want TooManyRequests", err)
	}
	pdb.Status.DisruptionsAllowed = 1
	if _, err := c.client.PolicyV1().PodDisruptionBudgets(ns).UpdateStatus(ctx, pdb, metav1.UpdateOptions{}); err != nil {
		t.Fatal(err)
	}
	if err := evict(); err != nil {
		t.Errorf("eviction within the budget: %v", err)
	}
}

func TestKindsOfTwoVersionsConvert(t *testing.T) {
	c := sharedCluster(t)
	ns, ctx := c.namespace(t, "versions"), within(t)
	v1, err := c.client.AutoscalingV1().HorizontalPodAutoscalers(ns).Create(ctx, &autoscalingv1.HorizontalPodAutoscaler{
		ObjectMeta: metav1.ObjectMeta{Name: "h"},
		Spec: autoscalingv1.HorizontalPodAutoscalerSpec{
			ScaleTargetRef: autoscalingv1.CrossVersionObjectReference{APIVersion: "apps/v1", Kind: "Deployment", Name: "d"},
			MaxReplicas:    5, TargetCPUUtilizationPercentage: ptr.To[int32](70),
		},
	}, metav1.CreateOptions{})
	if err != nil {
		t.Fatal(err)
	}
	v2, err := c.client.AutoscalingV2().HorizontalPodAutoscalers(ns).Get(ctx, "h", metav1.GetOptions{})
	if err != nil || len(v2.Spec.Metrics) != 1 || *v2.Spec.Metrics[0].Resource.Target.AverageUtilization != 70 {
		t.Fatalf("v1 read as v2: %+v, %v", v2.Spec, err)
	}
	v2.Spec.Metrics = append(v2.Spec.Metrics, autoscalingv2.MetricSpec{Type: autoscalingv2.PodsMetricSourceType, Pods: &autoscalingv2.PodsMetricSource{
		Metric: autoscalingv2.MetricIdentifier{Name: "requests"},
		Target: autoscalingv2.MetricTarget{Type: autoscalingv2.AverageValueMetricType, AverageValue: ptr.To(quantity("100"))},
	}})
	if _, err := c.client.AutoscalingV2().HorizontalPodAutoscalers(ns).Update(ctx, v2, metav1.UpdateOptions{}); err != nil {
		t.Fatal(err)
	}
	// A client of the old version changes one thing: what it cannot see must survive.
	if v1, err = c.client.AutoscalingV1().HorizontalPodAutoscalers(ns).Get(ctx, "h", metav1.GetOptions{}); err != nil {
		t.Fatal(err)
	}
	v1.Spec.MaxReplicas = 6
	if _, err = c.client.AutoscalingV1().HorizontalPodAutoscalers(ns).Update(ctx, v1, metav1.UpdateOptions{}); err != nil {
		t.Fatal(err)
	}
	list, err := c.client.AutoscalingV2().HorizontalPodAutoscalers(ns).List(ctx, metav1.ListOptions{})
	if err != nil || len(list.Items) != 1 || len(list.Items[0].Spec.Metrics) != 2 || list.Items[0].Spec.MaxReplicas != 6 {
		t.Errorf("after a v1 update: %+v, %v; want both metrics", list.Items, err)
	}

	event, err := c.client.EventsV1().Events(ns).Create(ctx, &eventsv1.Event{
		ObjectMeta: metav1.ObjectMeta{Name: "e"}, EventTime: metav1.NowMicro(), ReportingController: "test", ReportingInstance: "test-1",
		Action: "Do", Reason: "Because", Type: "Normal", Note: "said", Regarding: corev1.ObjectReference{Kind: "Pod", Namespace: ns, Name: "p"},
	}, metav1.CreateOptions{})
	if err != nil {
		t.Fatal(err)
	}
	core, err := c.client.CoreV1().Events(ns).List(ctx, metav1.ListOptions{FieldSelector: "involvedObject.name=p,reason=Because"})
	if err != nil || len(core.Items) != 1 || core.Items[0].Message != event.Note || core.Items[0].UID != event.UID {
		t.Errorf("events.k8s.io event read as core: %+v, %v", core.Items, err)
	}
	other, err := c.client.EventsV1().Events(ns).List(ctx, metav1.ListOptions{FieldSelector: "regarding.name=p"})
	if err != nil || len(other.Items) != 1 {
		t.Errorf("event by regarding.name: %v, %v", other.Items, err)
	}
}

func TestNamespaceGoesWhenItsFinalizerDoes(t *testing.T) {
	c := sharedCluster(t)
	ns, ctx := c.namespace(t, "going"), within(t)
	client := c.client.CoreV1().Namespaces()
	if err := client.Delete(ctx, ns, metav1.DeleteOptions{}); err != nil {
		t.Fatal(err)
	}
	got, err := client.Get(ctx, ns, metav1.GetOptions{})
	if err != nil || got.Status.Phase != corev1.NamespaceTerminating || got.DeletionTimestamp == nil {
		t.Fatalf("deleted namespace: %+v, %v; want Terminating", got, err)
	}
	eventually(t, "be refused in a terminating namespace", func(ctx context.Context) error {
		_, err := c.client.CoreV1().ConfigMaps(ns).Create(ctx, &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{GenerateName: "x"}}, metav1.CreateOptions{})
		if apierrors.IsForbidden(err) {
			return nil
		}
		return fmt.Errorf("create: %v", err)
	})
	got.Spec.Finalizers = nil
	if _, err := client.Finalize(ctx, got, metav1.UpdateOptions{}); err != nil {
		t.Fatal(err)
	}
	if _, err := client.Get(ctx, ns, metav1.GetOptions{}); !apierrors.IsNotFound(err) {
		t.Errorf("finalized namespace: %v, want NotFound", err)
	}
}

func TestCertificateRequestsRecordWhoAsks(t *testing.T) {
	c := sharedCluster(t)
	ctx := within(t)
	var obj *unstructured.Unstructured
	for _, o := range parse(t, everyKind) {
		if o.GetKind() == "CertificateSigningRequest" {
			obj = o
		}
	}
	obj.SetName("who")
	if err := unstructured.SetNestedField(obj.Object, "somebody else", "spec", "username"); err != nil {
		t.Fatal(err)
	}
	raw, _ := json.Marshal(obj.Object)
	csr := &certificatesv1.CertificateSigningRequest{}
	if err := json.Unmarshal(raw, csr); err != nil {
		t.Fatal(err)
	}
	client := c.client.CertificatesV1().CertificateSigningRequests()
	got, err := client.Create(ctx, csr, metav1.CreateOptions{})
	if err != nil {
		t.Fatal(err)
	}
	if got.Spec.Username != "kubernetes-admin" || len(got.Spec.Groups) == 0 {
		t.Errorf("recorded %q %v, want who asked", got.Spec.Username, got.Spec.Groups)
	}
	got.Status.Conditions = []certificatesv1.CertificateSigningRequestCondition{{Type: certificatesv1.CertificateApproved, Status: corev1.ConditionTrue, Reason: "Test"}}
	if after, err := client.UpdateStatus(ctx, got, metav1.UpdateOptions{}); err == nil && len(after.Status.Conditions) != 0 {
		t.Error("approved through the status endpoint")
	}
	got, _ = client.Get(ctx, "who", metav1.GetOptions{})
	got.Status.Conditions = []certificatesv1.CertificateSigningRequestCondition{{Type: certificatesv1.CertificateApproved, Status: corev1.ConditionTrue, Reason: "Test"}}
	got.Status.Certificate = []byte("forged")
	got, err = client.UpdateApproval(ctx, "who", got, metav1.UpdateOptions{})
	if err != nil || len(got.Status.Conditions) != 1 || got.Status.Conditions[0].LastUpdateTime.IsZero() || len(got.Status.Certificate) != 0 {
		t.Errorf("approval: %+v, %v; want the condition alone", got.Status, err)
	}
}

func TestRightsAreNeededAndTokensGiveThem(t *testing.T) {
	c := sharedCluster(t)
	ns, ctx := c.namespace(t, "rights"), within(t)
	anonymous := rest.AnonymousClientConfig(c.config)
	if _, err := kubernetes.NewForConfigOrDie(anonymous).CoreV1().Pods(ns).List(ctx, metav1.ListOptions{}); !apierrors.IsForbidden(err) {
		t.Errorf("anonymous list of pods: %v, want Forbidden", err)
	}
	token := c.kubectl(t, "", "create", "token", "default", "-n", ns)
	bearer := rest.AnonymousClientConfig(c.config)
	bearer.BearerToken = strings.TrimSpace(token)
	account := kubernetes.NewForConfigOrDie(bearer)
	if _, err := account.CoreV1().Pods(ns).List(ctx, metav1.ListOptions{}); !apierrors.IsForbidden(err) {
		t.Errorf("service account's list of pods: %v, want Forbidden", err)
	}
	c.kubectl(t, "", "create", "rolebinding", "view", "-n", ns, "--clusterrole=view", "--serviceaccount="+ns+":default")
	eventually(t, "list pods with the view role", func(ctx context.Context) error {
		_, err := account.CoreV1().Pods(ns).List(ctx, metav1.ListOptions{})
		return err
	})
	if _, err := account.CoreV1().Secrets(ns).List(ctx, metav1.ListOptions{}); !apierrors.IsForbidden(err) {
		t.Errorf("view of secrets: %v, want Forbidden", err)
	}
}
