package garbage

import (
	"fmt"
	"log/slog"
	"slices"
	"testing"

	"go.uber.org/goleak"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"
	fakediscovery "k8s.io/client-go/discovery/fake"
	metadatafake "k8s.io/client-go/metadata/fake"
	"k8s.io/client-go/tools/record"
	"k8s.io/utils/ptr"

	"github.com/reevehq/reeve/controlplane/controllers/looptest"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

var widget = schema.GroupVersionKind{Group: "example.com", Version: "v1", Kind: "Widget"}

func id(name string) ident { return ident{widget, "default", name, types.UID(name)} }

func object(name string, finalizers []string, deleting bool, owners ...string) *metav1.PartialObjectMetadata {
	o := &metav1.PartialObjectMetadata{
		TypeMeta:   metav1.TypeMeta{APIVersion: widget.GroupVersion().String(), Kind: widget.Kind},
		ObjectMeta: metav1.ObjectMeta{Name: name, Namespace: "default", UID: types.UID(name), Finalizers: finalizers, ResourceVersion: "1"},
	}
	if deleting {
		o.DeletionTimestamp = ptr.To(metav1.Now())
	}
	for _, w := range owners {
		o.OwnerReferences = append(o.OwnerReferences, metav1.OwnerReference{APIVersion: o.APIVersion, Kind: widget.Kind, Name: w, UID: types.UID(w), BlockOwnerDeletion: ptr.To(true)})
	}
	return o
}

func sorted(u []types.UID) (out []string) {
	for _, x := range u {
		out = append(out, string(x))
	}
	slices.Sort(out)
	return slices.Compact(out)
}

func TestGraph(t *testing.T) {
	g := &graph{nodes: map[types.UID]*node{}}
	set := func(name string, finalizers []string, deleting bool, owners ...string) pending {
		return g.set(id(name), object(name, finalizers, deleting, owners...))
	}
	if p := set("child", nil, false, "parent"); !slices.Equal(sorted(p.remove), []string{"child", "parent"}) {
		t.Errorf("a child before its parent: look at %v, want both", p.remove)
	}
	if v, _ := g.view("parent"); !v.virtual || len(v.dependents) != 1 || !v.dependents[0].blocks {
		t.Errorf("made-up parent: %+v", v)
	}
	set("parent", nil, false)
	if v, _ := g.view("parent"); v.virtual {
		t.Error("the parent was seen and is still made up")
	}
	if p := set("parent", []string{metav1.FinalizerDeleteDependents}, true); !slices.Equal(sorted(p.remove), []string{"child", "parent"}) {
		t.Errorf("foreground deletion: look at %v", p.remove)
	}
	if p := set("child", nil, false, "other"); !slices.Contains(p.remove, "parent") {
		t.Errorf("a child that changed owners must bring the waiting parent back: %v", p.remove)
	}
	if p := set("other", []string{metav1.FinalizerOrphanDependents}, true); !slices.Equal(sorted(p.orphan), []string{"other"}) {
		t.Errorf("orphaning deletion: %+v", p)
	}
	if p := g.remove("other"); !slices.Equal(sorted(p.remove), []string{"child"}) {
		t.Errorf("after the owner went: look at %v", p.remove)
	}
	g.remove("child")
	g.remove("parent")
	if len(g.nodes) != 0 {
		t.Errorf("%d nodes are left over", len(g.nodes))
	}
}

// cluster is an API that serves widgets, ConfigMaps and the discovery of both.
func cluster(t *testing.T, objs ...runtime.Object) (*looptest.Cluster, *metadatafake.FakeMetadataClient) {
	c := looptest.New(t)
	verbs := metav1.Verbs{"list", "watch", "delete", "get", "patch"}
	c.Discovery().(*fakediscovery.FakeDiscovery).Resources = []*metav1.APIResourceList{
		{GroupVersion: "example.com/v1", APIResources: []metav1.APIResource{{Name: "widgets", Kind: "Widget", Namespaced: true, Verbs: verbs}, {Name: "clusterwidgets", Kind: "ClusterWidget", Verbs: verbs}}},
	}
	scheme := metadatafake.NewTestScheme()
	if err := metav1.AddMetaToScheme(scheme); err != nil {
		t.Fatal(err)
	}
	m := metadatafake.NewSimpleMetadataClient(scheme, objs...)
	c.Env.Metadata = m
	c.Env.Log = slog.New(slog.DiscardHandler)
	c.Env.Recorder = func(string) record.EventRecorder { return c.Events }
	return c, m
}

var gvr = schema.GroupVersionResource{Group: "example.com", Version: "v1", Resource: "widgets"}

func left(t *testing.T, m *metadatafake.FakeMetadataClient) (names []string) {
	list, err := m.Resource(gvr).Namespace("default").List(t.Context(), metav1.ListOptions{})
	if err != nil {
		t.Fatal(err)
	}
	for _, o := range list.Items {
		names = append(names, o.Name)
	}
	slices.Sort(names)
	return names
}

func TestCollectsWhatHasNoOwnerLeft(t *testing.T) {
	c, m := cluster(t,
		object("root", nil, false), object("owned", nil, false, "root"), object("grandchild", nil, false, "owned"),
		object("dangling", nil, false, "gone"), object("two-owners", nil, false, "root", "gone"), object("below-dangling", nil, false, "dangling"))
	c.Run(New(c.Env))
	want := func(names ...string) {
		t.Helper()
		c.Eventually(fmt.Sprintf("only %v", names), func() error {
			if got := left(t, m); !slices.Equal(got, names) {
				return fmt.Errorf("%v", got)
			}
			return nil
		})
	}
	want("grandchild", "owned", "root", "two-owners")
	c.Eventually("the dead owner to leave two-owners", func() error {
		o, err := m.Resource(gvr).Namespace("default").Get(t.Context(), "two-owners", metav1.GetOptions{})
		if err != nil || len(o.OwnerReferences) != 1 || o.OwnerReferences[0].UID != "root" {
			return fmt.Errorf("%v, %v", o.OwnerReferences, err)
		}
		return nil
	})
	if err := m.Resource(gvr).Namespace("default").Delete(t.Context(), "root", metav1.DeleteOptions{}); err != nil {
		t.Fatal(err)
	}
	want()
}

func TestForegroundDeletionWaitsForDependents(t *testing.T) {
	parent := object("parent", []string{metav1.FinalizerDeleteDependents}, true)
	held := object("held", []string{"example.com/hold"}, true, "parent") // on its way, but not gone
	c, m := cluster(t, parent, held)
	c.Run(New(c.Env))
	finalizers := func() []string {
		o, err := m.Resource(gvr).Namespace("default").Get(t.Context(), "parent", metav1.GetOptions{})
		if err != nil {
			t.Fatal(err)
		}
		return o.Finalizers
	}
	if got := finalizers(); len(got) != 1 {
		t.Fatalf("the parent did not wait: %v", got)
	}
	if err := m.Resource(gvr).Namespace("default").Delete(t.Context(), "held", metav1.DeleteOptions{}); err != nil {
		t.Fatal(err)
	}
	c.Eventually("the parent to be let go", func() error {
		if got := finalizers(); len(got) != 0 {
			return fmt.Errorf("%v", got)
		}
		return nil
	})
}

func TestOrphaningReleasesDependents(t *testing.T) {
	c, m := cluster(t, object("parent", []string{metav1.FinalizerOrphanDependents}, true), object("child", nil, false, "parent"))
	c.Run(New(c.Env))
	c.Eventually("the release", func() error {
		p, err := m.Resource(gvr).Namespace("default").Get(t.Context(), "parent", metav1.GetOptions{})
		if err != nil || len(p.Finalizers) != 0 {
			return fmt.Errorf("parent %v, %v", p.Finalizers, err)
		}
		child, err := m.Resource(gvr).Namespace("default").Get(t.Context(), "child", metav1.GetOptions{})
		if err != nil || len(child.OwnerReferences) != 0 {
			return fmt.Errorf("child %v, %v", child.OwnerReferences, err)
		}
		return nil
	})
}

// A reference that names a living UID by a wrong name must not make its true dependents look orphaned.
func TestWrongCoordinatesDoNotCondemnOthers(t *testing.T) {
	liar := object("liar", nil, false, "root")
	liar.OwnerReferences[0].Name = "wrong-name"
	c, m := cluster(t, object("root", nil, false), object("honest", nil, false, "root"), liar)
	c.Run(New(c.Env))
	c.Eventually("the end of the liar", func() error {
		if got := left(t, m); slices.Contains(got, "liar") {
			return fmt.Errorf("%v", got)
		}
		return nil
	})
	if _, err := m.Resource(gvr).Namespace("default").Get(t.Context(), "honest", metav1.GetOptions{}); err != nil {
		t.Errorf("the honest dependent: %v", err)
	}
}
