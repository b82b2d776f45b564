package namespace

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"

	"go.uber.org/goleak"
	v1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	fakediscovery "k8s.io/client-go/discovery/fake"
	metadatafake "k8s.io/client-go/metadata/fake"
	clienttesting "k8s.io/client-go/testing"
	"k8s.io/utils/ptr"

	"github.com/reevehq/reeve/controlplane/controllers/looptest"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func TestPodsGoFirstAndTheNamespaceLast(t *testing.T) {
	ns := &v1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: "x", UID: "x", DeletionTimestamp: ptr.To(metav1.Now()), Finalizers: []string{"test/keep"}},
		Spec: v1.NamespaceSpec{Finalizers: []v1.FinalizerName{v1.FinalizerKubernetes, "example.com/other"}}}
	c := looptest.New(t, ns)
	verbs := metav1.Verbs{"list", "delete", "deletecollection"}
	c.Discovery().(*fakediscovery.FakeDiscovery).Resources = []*metav1.APIResourceList{
		{GroupVersion: "v1", APIResources: []metav1.APIResource{
			{Name: "configmaps", Kind: "ConfigMap", Namespaced: true, Verbs: verbs}, {Name: "pods", Kind: "Pod", Namespaced: true, Verbs: verbs},
			{Name: "nodes", Kind: "Node", Verbs: verbs}, {Name: "bindings", Kind: "Binding", Namespaced: true, Verbs: metav1.Verbs{"create"}},
		}},
		{GroupVersion: "example.com/v1", APIResources: []metav1.APIResource{{Name: "widgets", Kind: "Widget", Namespaced: true, Verbs: metav1.Verbs{"list", "delete"}}}},
	}
	item := func(api, kind, name string) *metav1.PartialObjectMetadata {
		return &metav1.PartialObjectMetadata{TypeMeta: metav1.TypeMeta{APIVersion: api, Kind: kind}, ObjectMeta: metav1.ObjectMeta{Namespace: "x", Name: name}}
	}
	scheme := metadatafake.NewTestScheme()
	if err := metav1.AddMetaToScheme(scheme); err != nil {
		t.Fatal(err)
	}
	m := metadatafake.NewSimpleMetadataClient(scheme, item("v1", "Pod", "p"), item("v1", "ConfigMap", "c"), item("example.com/v1", "Widget", "w"))
	var order []string
	m.PrependReactor("delete-collection", "*", func(a clienttesting.Action) (bool, runtime.Object, error) {
		res := a.GetResource()
		order = append(order, res.Resource)
		name := map[string]string{"pods": "p", "configmaps": "c"}[res.Resource]
		return true, nil, m.Tracker().Delete(res, "x", name)
	})
	c.Env.Metadata = m
	var finalized []v1.FinalizerName
	c.PrependReactor("create", "namespaces", func(a clienttesting.Action) (bool, runtime.Object, error) {
		if a.GetSubresource() != "finalize" {
			return false, nil, nil
		}
		got := a.(clienttesting.CreateAction).GetObject().(*v1.Namespace)
		finalized = append([]v1.FinalizerName{"called"}, got.Spec.Finalizers...)
		return true, got, c.Tracker().Update(v1.SchemeGroupVersion.WithResource("namespaces"), got, "")
	})
	stop := c.Run(New(c.Env))
	c.Eventually("the namespace to be let go", func() error {
		got, err := c.CoreV1().Namespaces().Get(t.Context(), "x", metav1.GetOptions{})
		if err != nil {
			return err
		}
		if slices.Contains(got.Spec.Finalizers, v1.FinalizerKubernetes) {
			return fmt.Errorf("finalizers %v, status %+v", got.Spec.Finalizers, got.Status)
		}
		return nil
	})
	stop()
	if !slices.Equal(order, []string{"pods", "configmaps"}) {
		t.Errorf("collections deleted: %v", order)
	}
	if !slices.Equal(finalized, []v1.FinalizerName{"called", "example.com/other"}) {
		t.Errorf("others' finalizers: %v", finalized)
	}
}

func TestConditionsSayWhatHoldsTheNamespaceUp(t *testing.T) {
	now := metav1.Now()
	f := &findings{discovery: errors.New("metrics is down"), deletion: []error{errors.New("no right")},
		remaining: map[string]int{"pods": 2, "widgets.example.com": 1}, finalizers: map[string]int{"example.com/hold": 1}}
	got := conditions(nil, f, now)
	for typ, part := range map[v1.NamespaceConditionType]string{
		v1.NamespaceDeletionDiscoveryFailure: "metrics is down", v1.NamespaceDeletionContentFailure: "no right",
		v1.NamespaceContentRemaining: "pods has 2 resource instances, widgets.example.com has 1", v1.NamespaceFinalizersRemaining: "example.com/hold in 1",
	} {
		i := slices.IndexFunc(got, func(c v1.NamespaceCondition) bool { return c.Type == typ })
		if i < 0 || got[i].Status != v1.ConditionTrue || !strings.Contains(got[i].Message, part) {
			t.Errorf("%s: %+v does not say %q", typ, got, part)
		}
	}
	for _, c := range conditions(got, &findings{}, now) {
		if c.Status != v1.ConditionFalse {
			t.Errorf("%s is still %s", c.Type, c.Status)
		}
	}
}
