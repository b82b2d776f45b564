package controlplane

import (
	"fmt"
	"strings"
	"testing"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/watch"
	"k8s.io/utils/ptr"
)

func TestWatchListsSelectorsAndPages(t *testing.T) {
	c := sharedCluster(t)
	ns, ctx := c.namespace(t, "watch"), within(t)
	for _, cached := range []bool{true, false} {
		// ConfigMaps are served from a watch cache, PodTemplates straight from etcd: clients must not tell the difference.
		resource := schema.GroupVersionResource{Version: "v1", Resource: "configmaps"}
		body := map[string]any{"apiVersion": "v1", "kind": "ConfigMap"}
		if !cached {
			resource.Resource = "podtemplates"
			body = map[string]any{"apiVersion": "v1", "kind": "PodTemplate", "template": map[string]any{
				"metadata": map[string]any{"labels": map[string]any{"a": "b"}},
				"spec":     map[string]any{"containers": []any{map[string]any{"name": "c", "image": "busybox"}}}}}
		}
		client := c.dynamic.Resource(resource).Namespace(ns)
		for i := range 5 {
			obj := &unstructured.Unstructured{Object: body}
			obj = obj.DeepCopy()
			obj.SetName(fmt.Sprintf("o%d", i))
			obj.SetLabels(map[string]string{"odd": fmt.Sprint(i%2 == 1)})
			if _, err := client.Create(ctx, obj, metav1.CreateOptions{}); err != nil {
				t.Fatal(err)
			}
		}
		page, err := client.List(ctx, metav1.ListOptions{Limit: 2, LabelSelector: "odd=false"})
		if err != nil || len(page.Items) != 2 || page.GetContinue() == "" {
			t.Fatalf("%s: first page: %v, %v", resource.Resource, page, err)
		}
		rest, err := client.List(ctx, metav1.ListOptions{Limit: 2, LabelSelector: "odd=false", Continue: page.GetContinue()})
		if err != nil || len(rest.Items) != 1 {
			t.Errorf("%s: second page: %d items, %v; want 1", resource.Resource, len(rest.Items), err)
		}

		w, err := client.Watch(ctx, metav1.ListOptions{
			SendInitialEvents: ptr.To(true), ResourceVersionMatch: metav1.ResourceVersionMatchNotOlderThan,
			AllowWatchBookmarks: true, LabelSelector: "odd=true",
		})
		if err != nil {
			t.Fatal(err)
		}
		var seen []string
		for event := range w.ResultChan() {
			obj := event.Object.(*unstructured.Unstructured)
			if event.Type == watch.Bookmark {
				if obj.GetAnnotations()[metav1.InitialEventsAnnotationKey] == "true" {
					break
				}
				continue
			}
			seen = append(seen, string(event.Type)+" "+obj.GetName())
		}
		if got := strings.Join(seen, ","); got != "ADDED o1,ADDED o3" {
			t.Errorf("%s: initial events = %s", resource.Resource, got)
		}
		// o1 leaves the selection, o0 enters it, o3 goes away.
		for _, change := range []struct{ name, odd string }{{"o1", "false"}, {"o0", "true"}} {
			patch := fmt.Sprintf(`{"metadata":{"labels":{"odd":%q}}}`, change.odd)
			if _, err := client.Patch(ctx, change.name, types.MergePatchType, []byte(patch), metav1.PatchOptions{}); err != nil {
				t.Fatal(err)
			}
		}
		if err := client.Delete(ctx, "o3", metav1.DeleteOptions{}); err != nil {
			t.Fatal(err)
		}
		for _, want := range []string{"DELETED o1", "ADDED o0", "DELETED o3"} {
			if got := nextEvent(t, w); got != want {
				t.Errorf("%s: event %q, want %q", resource.Resource, got, want)
			}
		}
		w.Stop()
	}
}

func nextEvent(t testing.TB, w watch.Interface) string {
	t.Helper()
	timeout := time.After(patience)
	for {
		select {
		case event, ok := <-w.ResultChan():
			if !ok {
				t.Fatal("watch ended")
			}
			if event.Type != watch.Bookmark {
				return string(event.Type) + " " + event.Object.(metav1.Object).GetName()
			}
		case <-timeout:
			t.Fatal("no event")
		}
	}
}

func TestFieldSelectors(t *testing.T) {
	c := sharedCluster(t)
	ns, ctx := c.namespace(t, "fields"), within(t)
	a := pod("a")
	a.Spec.NodeName = "node-a"
	c.createPod(t, ns, a)
	c.createPod(t, ns, pod("b"))
	list, err := c.client.CoreV1().Pods("").List(ctx, metav1.ListOptions{FieldSelector: "spec.nodeName=node-a,metadata.namespace=" + ns})
	if err != nil || len(list.Items) != 1 || list.Items[0].Name != "a" {
		t.Errorf("pods of node-a: %v, %v", list.Items, err)
	}
	list, err = c.client.CoreV1().Pods(ns).List(ctx, metav1.ListOptions{FieldSelector: "spec.nodeName=,status.phase=Pending"})
	if err != nil || len(list.Items) != 1 || list.Items[0].Name != "b" {
		t.Errorf("unscheduled pods: %v, %v", list.Items, err)
	}
	if _, err := c.client.CoreV1().Pods(ns).List(ctx, metav1.ListOptions{FieldSelector: "spec.no=1"}); !apierrors.IsBadRequest(err) {
		t.Errorf("unknown field: %v, want BadRequest", err)
	}
}
