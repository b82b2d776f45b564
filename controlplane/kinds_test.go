package controlplane

import (
	"context"
	_ "embed"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	clientv3 "go.etcd.io/etcd/client/v3"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime/schema"

	"github.com/reevehq/reeve/controlplane/apis"
)

//go:embed testdata/every-kind.yaml
var everyKind []byte

// storedAt is where upstream keeps kinds whose key is not simply the resource's name.
var storedAt = map[string]string{
	"services": "services/specs/every/every", "endpoints": "services/endpoints/every/every", "nodes": "minions/every",
	"replicationcontrollers": "controllers/every/every", "ingresses.networking.k8s.io": "ingress/every/every",
	"namespaces": "namespaces/every-other", "ipaddresses.networking.k8s.io": "ipaddresses/10.96.200.200",
	"csidrivers.storage.k8s.io": "csidrivers/every.example.com",
}

func TestEveryKindIsAppliedListedStoredAndDeleted(t *testing.T) {
	dir := shortDir(t)
	c, _ := start(t, dir, nil)
	c.namespace(t, "every")
	ctx := within(t)

	etcd, err := clientv3.New(clientv3.Config{Endpoints: []string{"unix://" + filepath.Join(dir, "server/etcd/etcd.sock")}})
	if err != nil {
		t.Fatal(err)
	}
	defer etcd.Close()

	objects := parse(t, everyKind)
	seen := map[schema.GroupKind]bool{}
	for _, obj := range objects {
		gvk := obj.GroupVersionKind()
		seen[gvk.GroupKind()] = true
		client := c.resource(t, obj)
		name := gvk.Kind
		options := metav1.ApplyOptions{FieldManager: "test", Force: true}
		eventually(t, "apply "+name, func(ctx context.Context) error {
			_, err := client.Apply(ctx, obj.GetName(), obj, options)
			return err
		})
		first, err := client.Get(ctx, obj.GetName(), metav1.GetOptions{})
		if err != nil {
			t.Errorf("%s: %v", name, err)
			continue
		}
		second, err := client.Apply(ctx, obj.GetName(), obj, options)
		if err != nil {
			t.Errorf("%s: apply again: %v", name, err)
		} else if d := cmp.Diff(steady(first), steady(second)); d != "" && !settles(first) {
			t.Errorf("%s: applying the same again changed it: some default or reset is not stable:\n%s", name, d)
		}
		if first.GetUID() == "" || first.GetCreationTimestamp() == (metav1.Time{}) {
			t.Errorf("%s: stored without uid or creation time: %v", name, first.Object["metadata"])
		}
		list, err := client.List(ctx, metav1.ListOptions{FieldSelector: "metadata.name=" + obj.GetName()})
		if err != nil || len(list.Items) != 1 {
			t.Errorf("%s: list by name: %d items, %v", name, len(list.Items), err)
		}
	}
	for _, kind := range apis.Kinds() {
		if !seen[kind.GroupVersionKind.GroupKind()] {
			t.Errorf("testdata/every-kind.yaml has no %s", kind.GroupVersionKind)
		}
		resource := kind.GroupResource().String()
		key := storedAt[resource]
		if key == "" {
			key = kind.Resource + "/every"
			if kind.Namespaced() {
				key += "/every"
			}
		}
		got, err := etcd.Get(ctx, "/registry/"+key)
		if err != nil || len(got.Kvs) != 1 {
			t.Errorf("%s is not stored at upstream's key /registry/%s: %v", resource, key, err)
		} else if !strings.HasPrefix(string(got.Kvs[0].Value), "k8s\x00") {
			t.Errorf("%s is not stored as protobuf", resource)
		}
	}

	for i := len(objects) - 1; i >= 0; i-- {
		obj := objects[i]
		client := c.resource(t, obj)
		zero := int64(0)
		if err := client.Delete(ctx, obj.GetName(), metav1.DeleteOptions{GracePeriodSeconds: &zero}); err != nil {
			t.Errorf("delete %s: %v", obj.GetKind(), err)
			continue
		}
		got, err := client.Get(ctx, obj.GetName(), metav1.GetOptions{})
		if err == nil && got.GetDeletionTimestamp() == nil {
			t.Errorf("delete %s: it is still there", obj.GetKind())
		} else if err != nil && !apierrors.IsNotFound(err) {
			t.Errorf("after delete of %s: %v", obj.GetKind(), err)
		}
	}
}

// steady is the object without what a write changes by itself.
func steady(obj *unstructured.Unstructured) map[string]any {
	obj = obj.DeepCopy()
	obj.SetResourceVersion("")
	entries := obj.GetManagedFields()
	for i := range entries {
		entries[i].Time = nil
	}
	obj.SetManagedFields(entries)
	return obj.Object
}

// settles says that applying the same object a second time may write, as it does upstream: a Job's labels default from
// those of its template, which it gets only after defaulting; a FlowSchema's status is written by the server; and an object of which nothing was applied but its name
// gets its managed fields the second time.
func settles(obj *unstructured.Unstructured) bool {
	return obj.GetKind() == "Job" || obj.GetKind() == "FlowSchema" || len(obj.GetManagedFields()) == 0
}

func TestDiscoveryNamesEveryKindAndSubresource(t *testing.T) {
	c := sharedCluster(t)
	_, lists, err := c.client.Discovery().ServerGroupsAndResources()
	if err != nil {
		t.Fatal(err)
	}
	served := map[string]metav1.APIResource{}
	for _, l := range lists {
		for _, r := range l.APIResources {
			served[l.GroupVersion+" "+r.Name] = r
		}
	}
	for _, kind := range apis.Kinds() {
		for _, gv := range kind.ServedIn() {
			r, ok := served[gv.String()+" "+kind.Resource]
			if !ok {
				t.Errorf("%s %s is not served", gv, kind.Resource)
				continue
			}
			if r.Kind != kind.Kind || r.SingularName != kind.Singular || r.Namespaced != kind.Namespaced() || len(r.Verbs) != 8 {
				t.Errorf("%s %s: discovery says %+v", gv, kind.Resource, r)
			}
			if _, ok := served[gv.String()+" "+kind.Resource+"/status"]; ok != kind.Status {
				t.Errorf("%s %s: status subresource served: %v, want %v", gv, kind.Resource, ok, kind.Status)
			}
		}
	}
	for _, name := range []string{
		"v1 pods/binding", "v1 pods/eviction", "v1 pods/resize", "v1 pods/ephemeralcontainers", "v1 pods/log", "v1 pods/exec",
		"v1 pods/attach", "v1 pods/portforward", "v1 pods/proxy", "v1 services/proxy", "v1 nodes/proxy", "v1 namespaces/finalize",
		"v1 serviceaccounts/token", "v1 bindings", "v1 replicationcontrollers/scale", "v1 componentstatuses",
		"apps/v1 deployments/scale", "apps/v1 replicasets/scale", "apps/v1 statefulsets/scale",
		"certificates.k8s.io/v1 certificatesigningrequests/approval", "certificates.k8s.io/v1 certificatesigningrequests/status",
		"authentication.k8s.io/v1 tokenreviews", "authentication.k8s.io/v1 selfsubjectreviews",
		"authorization.k8s.io/v1 subjectaccessreviews", "authorization.k8s.io/v1 selfsubjectaccessreviews",
		"authorization.k8s.io/v1 selfsubjectrulesreviews", "authorization.k8s.io/v1 localsubjectaccessreviews",
		"apiextensions.k8s.io/v1 customresourcedefinitions", "apiregistration.k8s.io/v1 apiservices",
	} {
		if _, ok := served[name]; !ok {
			t.Errorf("%s is not served", name)
		}
	}
}
