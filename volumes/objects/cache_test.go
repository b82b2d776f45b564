package objects

import (
	"context"
	"errors"
	"net/http"
	"sync/atomic"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/client-go/kubernetes/fake"
	k8stesting "k8s.io/client-go/testing"

	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func configMap(name, rv, v string) *corev1.ConfigMap {
	return &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Namespace: "ns", Name: name, ResourceVersion: rv}, Data: map[string]string{"k": v}}
}

func TestCacheFollowsAnObject(t *testing.T) {
	client := fake.NewClientset(configMap("cm", "1", "one"), configMap("other", "1", "x"))
	c := NewCache(client, nil)
	defer c.Close()
	changed := make(chan struct{}, 16)
	c.Retain("pod", []Ref{{ConfigMap, "ns", "cm"}}, func() { changed <- struct{}{} })
	cm, err := c.ConfigMap(t.Context(), "ns", "cm")
	if err != nil || cm.Data["k"] != "one" {
		t.Fatalf("first read: %v, %v", cm, err)
	}
	<-changed
	// The watch begins some time after the list: update until it is heard.
	deadline := time.After(10 * time.Second)
	for i := 2; ; i++ {
		if _, err := client.CoreV1().ConfigMaps("ns").Update(t.Context(), configMap("cm", string(rune('0'+i%10)), "two"), metav1.UpdateOptions{}); err != nil {
			t.Fatal(err)
		}
		select {
		case <-changed:
		case <-time.After(20 * time.Millisecond):
			continue
		case <-deadline:
			t.Fatal("the update was never heard of")
		}
		break
	}
	if cm, err := c.ConfigMap(t.Context(), "ns", "cm"); err != nil || cm.Data["k"] != "two" {
		t.Errorf("after the update: %v, %v", cm, err)
	}
	if err := client.CoreV1().ConfigMaps("ns").Delete(t.Context(), "cm", metav1.DeleteOptions{}); err != nil {
		t.Fatal(err)
	}
	<-changed
	for {
		_, err := c.ConfigMap(t.Context(), "ns", "cm")
		if apierrors.IsNotFound(err) {
			break
		}
		select {
		case <-changed:
		case <-deadline:
			t.Fatalf("after the delete: %v", err)
		}
	}
	if _, err := c.ConfigMap(t.Context(), "ns", "other"); err == nil || apierrors.IsNotFound(err) {
		t.Errorf("an object that nobody retained: %v", err)
	}
	c.Retain("pod", nil, nil)
	c.mu.Lock()
	defer c.mu.Unlock()
	if len(c.entries) != 0 || len(c.owners) != 0 {
		t.Errorf("left over: %v, %v", c.entries, c.owners)
	}
}

// The Node authorizer may be some milliseconds behind the pod that names an object: the first refusals are not the answer.
func TestForbiddenAtFirst(t *testing.T) {
	client := fake.NewClientset()
	var asked atomic.Int64
	client.PrependReactor("list", "secrets", func(k8stesting.Action) (bool, runtime.Object, error) {
		if asked.Add(1) <= 3 {
			return true, nil, apierrors.NewForbidden(corev1.Resource("secrets"), "s", errors.New("no relationship found"))
		}
		return true, &corev1.SecretList{Items: []corev1.Secret{{ObjectMeta: metav1.ObjectMeta{Namespace: "ns", Name: "s", ResourceVersion: "1"}}}}, nil
	})
	c := NewCache(client, nil)
	defer c.Close()
	c.Retain("pod", []Ref{{Secret, "ns", "s"}}, nil)
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	if _, err := c.Secret(ctx, "ns", "s"); err != nil {
		t.Fatal(err)
	}
}

// Who runs out of patience hears what was wrong, not only that time passed.
func TestErrorNamesTheCause(t *testing.T) {
	client := fake.NewClientset()
	client.PrependReactor("list", "secrets", func(k8stesting.Action) (bool, runtime.Object, error) {
		return true, nil, apierrors.NewGenericServerResponse(http.StatusServiceUnavailable, "get", corev1.Resource("secrets"), "s", "etcd is away", 0, true)
	})
	c := NewCache(client, nil)
	defer c.Close()
	c.Retain("pod", []Ref{{Secret, "ns", "s"}}, nil)
	ctx, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
	defer cancel()
	if _, err := c.Secret(ctx, "ns", "s"); err == nil || errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("error = %v, want the server's", err)
	}
}

func TestImmutableIsNotWatched(t *testing.T) {
	yes := true
	cm := configMap("cm", "1", "v")
	cm.Immutable = &yes
	client := fake.NewClientset(cm)
	c := NewCache(client, nil)
	c.Retain("pod", []Ref{{ConfigMap, "ns", "cm"}}, nil)
	if _, err := c.ConfigMap(t.Context(), "ns", "cm"); err != nil {
		t.Fatal(err)
	}
	c.Close()
	for _, a := range client.Actions() {
		if a.GetVerb() == "watch" {
			t.Error("an immutable ConfigMap was watched")
		}
	}
}

func TestOfPod(t *testing.T) {
	ref := func(n string) corev1.LocalObjectReference { return corev1.LocalObjectReference{Name: n} }
	pod := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Namespace: "ns"}, Spec: corev1.PodSpec{
		ImagePullSecrets: []corev1.LocalObjectReference{ref("pull")},
		InitContainers:   []corev1.Container{{EnvFrom: []corev1.EnvFromSource{{ConfigMapRef: &corev1.ConfigMapEnvSource{LocalObjectReference: ref("cm")}}}}},
		Containers: []corev1.Container{{Env: []corev1.EnvVar{
			{ValueFrom: &corev1.EnvVarSource{SecretKeyRef: &corev1.SecretKeySelector{LocalObjectReference: ref("key")}}}}}},
		Volumes: []corev1.Volume{
			{VolumeSource: corev1.VolumeSource{Secret: &corev1.SecretVolumeSource{SecretName: "vol"}}},
			{VolumeSource: corev1.VolumeSource{Projected: &corev1.ProjectedVolumeSource{Sources: []corev1.VolumeProjection{
				{ConfigMap: &corev1.ConfigMapProjection{LocalObjectReference: ref("cm")}}, {Secret: &corev1.SecretProjection{LocalObjectReference: ref("proj")}}}}}},
		},
	}}
	want := []Ref{{Secret, "ns", "vol"}, {ConfigMap, "ns", "cm"}, {Secret, "ns", "proj"}, {Secret, "ns", "key"}, {Secret, "ns", "pull"}}
	got := OfPod(pod)
	if len(got) != len(want) {
		t.Fatalf("got %v, want %v", got, want)
	}
	for i := range want {
		if got[i] != want[i] {
			t.Errorf("reference %d is %v, want %v", i, got[i], want[i])
		}
	}
}
