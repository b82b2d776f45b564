package controlplane

import (
	"strings"
	"testing"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	applyapps "k8s.io/client-go/applyconfigurations/apps/v1"
	applycore "k8s.io/client-go/applyconfigurations/core/v1"
	applymeta "k8s.io/client-go/applyconfigurations/meta/v1"
	"k8s.io/utils/ptr"
)

func TestStatusAndSpecAreEachWrittenThroughTheirOwnEndpoint(t *testing.T) {
	c := sharedCluster(t)
	ns, ctx := c.namespace(t, "halves"), within(t)
	client := c.client.AppsV1().Deployments(ns)
	d := deployment("d")
	d.Status.Replicas = 7
	got, err := client.Create(ctx, d, metav1.CreateOptions{})
	if err != nil {
		t.Fatal(err)
	}
	if got.Status.Replicas != 0 || got.Generation != 1 || *got.Spec.Replicas != 1 {
		t.Errorf("created: status.replicas %d, generation %d, replicas %d; want 0, 1, 1", got.Status.Replicas, got.Generation, *got.Spec.Replicas)
	}
	got.Status.Replicas, got.Status.ObservedGeneration = 3, 1
	got.Spec.Replicas = ptr.To[int32](9)
	got, err = client.UpdateStatus(ctx, got, metav1.UpdateOptions{})
	if err != nil {
		t.Fatal(err)
	}
	if got.Status.Replicas != 3 || *got.Spec.Replicas != 1 || got.Generation != 1 {
		t.Errorf("status update: status.replicas %d, replicas %d, generation %d; want 3, 1, 1", got.Status.Replicas, *got.Spec.Replicas, got.Generation)
	}
	got.Status.Replicas, got.Spec.Paused = 8, true
	got, err = client.Update(ctx, got, metav1.UpdateOptions{})
	if err != nil {
		t.Fatal(err)
	}
	if got.Status.Replicas != 3 || !got.Spec.Paused || got.Generation != 2 {
		t.Errorf("update: status.replicas %d, paused %v, generation %d; want 3, true, 2", got.Status.Replicas, got.Spec.Paused, got.Generation)
	}
	stale := got.DeepCopy()
	stale.ResourceVersion = "1"
	if _, err := client.Update(ctx, stale, metav1.UpdateOptions{}); !apierrors.IsConflict(err) {
		t.Errorf("update of an old version: %v, want a conflict", err)
	}
}

func TestServerSideApplyOwnsFieldsAndReportsConflicts(t *testing.T) {
	c := sharedCluster(t)
	ns, ctx := c.namespace(t, "apply"), within(t)
	client := c.client.AppsV1().Deployments(ns)
	labels := map[string]string{"app": "d"}
	config := func(replicas int32) *applyapps.DeploymentApplyConfiguration {
		return applyapps.Deployment("d", ns).WithSpec(applyapps.DeploymentSpec().WithReplicas(replicas).
			WithSelector(applymeta.LabelSelector().WithMatchLabels(labels)).
			WithTemplate(applycore.PodTemplateSpec().WithLabels(labels).WithSpec(
				applycore.PodSpec().WithContainers(applycore.Container().WithName("c").WithImage("busybox")))))
	}
	if _, err := client.Apply(ctx, config(2), metav1.ApplyOptions{FieldManager: "one"}); err != nil {
		t.Fatal(err)
	}
	if _, err := client.Apply(ctx, config(3), metav1.ApplyOptions{FieldManager: "two"}); !apierrors.IsConflict(err) {
		t.Errorf("a second manager's other value: %v, want a conflict", err)
	}
	got, err := client.Apply(ctx, config(3), metav1.ApplyOptions{FieldManager: "two", Force: true})
	if err != nil || *got.Spec.Replicas != 3 {
		t.Errorf("forced: %v, %v", got.Spec.Replicas, err)
	}
	// A list merged by key: another manager's container stays when the first applies again without it.
	sidecar := config(3)
	sidecar.Spec.Replicas = nil
	sidecar.Spec.Template.Spec.Containers[0].WithName("sidecar")
	if _, err := client.Apply(ctx, sidecar, metav1.ApplyOptions{FieldManager: "three"}); err != nil {
		t.Fatal(err)
	}
	got, err = client.Apply(ctx, config(3), metav1.ApplyOptions{FieldManager: "one"})
	if err != nil || len(got.Spec.Template.Spec.Containers) != 2 {
		t.Errorf("containers after both applied: %v, %v; want c and sidecar", got.Spec.Template.Spec.Containers, err)
	}
	// The status is not the main endpoint's to own.
	for _, entry := range got.ManagedFields {
		if strings.Contains(string(entry.FieldsV1.Raw), "f:status") {
			t.Errorf("manager %s owns status through the main endpoint", entry.Manager)
		}
	}
}

func TestPatchesAndDryRun(t *testing.T) {
	c := sharedCluster(t)
	ns, ctx := c.namespace(t, "patches"), within(t)
	client := c.client.AppsV1().Deployments(ns)
	if _, err := client.Create(ctx, deployment("d"), metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	strategic := `{"spec":{"template":{"spec":{"containers":[{"name":"more","image":"busybox"}]}}}}`
	got, err := client.Patch(ctx, "d", types.StrategicMergePatchType, []byte(strategic), metav1.PatchOptions{DryRun: []string{"All"}})
	if err != nil || len(got.Spec.Template.Spec.Containers) != 2 {
		t.Errorf("strategic merge patch: %v, %v; want two containers", got, err)
	}
	got, err = client.Get(ctx, "d", metav1.GetOptions{})
	if err != nil || len(got.Spec.Template.Spec.Containers) != 1 {
		t.Errorf("a dry run was stored: %v, %v", got, err)
	}
	got, err = client.Patch(ctx, "d", types.JSONPatchType, []byte(`[{"op":"replace","path":"/spec/minReadySeconds","value":5}]`), metav1.PatchOptions{})
	if err != nil || got.Spec.MinReadySeconds != 5 {
		t.Errorf("JSON patch: %v, %v", got, err)
	}
	_, err = client.Patch(ctx, "d", types.MergePatchType, []byte(`{"spec":{"nothingOfTheKind":1}}`), metav1.PatchOptions{FieldValidation: "Strict"})
	if err == nil || !strings.Contains(err.Error(), "nothingOfTheKind") {
		t.Errorf("unknown field under strict validation: %v, want an error that names it", err)
	}
}

func TestApplyingTheSameLaterDoesNotWrite(t *testing.T) {
	c := sharedCluster(t)
	ctx := within(t)
	for _, obj := range parse(t, everyKind) {
		if obj.GetKind() != "ValidatingAdmissionPolicy" { // lists that are replaced as one, with defaults inside
			continue
		}
		obj.SetName("later")
		client, options := c.resource(t, obj), metav1.ApplyOptions{FieldManager: "test"}
		first, err := client.Apply(ctx, obj.GetName(), obj, options)
		if err != nil {
			t.Fatal(err)
		}
		// Managed fields count whole seconds: pass into the next one.
		for now := time.Now(); time.Now().Truncate(time.Second).Equal(now.Truncate(time.Second)); time.Sleep(10 * time.Millisecond) {
		}
		second, err := client.Apply(ctx, obj.GetName(), obj, options)
		if err != nil {
			t.Fatal(err)
		}
		if first.GetResourceVersion() != second.GetResourceVersion() {
			t.Errorf("written again: version %s, then %s", first.GetResourceVersion(), second.GetResourceVersion())
		}
	}
}
