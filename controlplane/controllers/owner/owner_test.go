package owner

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync/atomic"
	"testing"

	v1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"
)

func pod(name, app string, ref *metav1.OwnerReference) *v1.Pod {
	p := &v1.Pod{ObjectMeta: metav1.ObjectMeta{Name: name, Namespace: "ns", UID: types.UID(name), Labels: map[string]string{"app": app}}}
	if ref != nil {
		p.OwnerReferences = []metav1.OwnerReference{*ref}
	}
	return p
}

func TestClaim(t *testing.T) {
	kind := schema.GroupVersionKind{Group: "apps", Version: "v1", Kind: "ReplicaSet"}
	me := &v1.Pod{ObjectMeta: metav1.ObjectMeta{Name: "me", Namespace: "ns", UID: "me"}}
	mine, other := metav1.NewControllerRef(me, kind), &metav1.OwnerReference{UID: "other", Controller: new(bool)}
	*other.Controller = true
	deleted := pod("deleted-orphan", "x", nil)
	deleted.DeletionTimestamp = &metav1.Time{}
	objs := []*v1.Pod{
		pod("mine", "x", mine), pod("mine-relabelled", "y", mine), pod("orphan", "x", nil), pod("stranger", "y", nil),
		pod("others", "x", other), deleted,
	}
	var patched []string
	c := Claimer[*v1.Pod]{
		Owner: me, Kind: kind, Selector: labels.SelectorFromSet(labels.Set{"app": "x"}),
		Fresh: func(context.Context) (metav1.Object, error) { return me, nil },
		Patch: func(_ context.Context, p *v1.Pod, patch []byte) error {
			var m struct {
				Metadata struct {
					UID             string           `json:"uid"`
					OwnerReferences []map[string]any `json:"ownerReferences"`
				} `json:"metadata"`
			}
			if err := json.Unmarshal(patch, &m); err != nil || m.Metadata.UID != p.Name || len(m.Metadata.OwnerReferences) != 1 {
				t.Errorf("patch of %s: %s (%v)", p.Name, patch, err)
			}
			what := "adopt "
			if m.Metadata.OwnerReferences[0]["$patch"] == "delete" {
				what = "release "
			}
			patched = append(patched, what+p.Name)
			return nil
		},
	}
	got, err := c.Claim(t.Context(), objs)
	if err != nil {
		t.Fatal(err)
	}
	var names []string
	for _, p := range got {
		names = append(names, p.Name)
	}
	if !slices.Equal(names, []string{"mine", "orphan"}) {
		t.Errorf("claimed %v", names)
	}
	slices.Sort(patched)
	if !slices.Equal(patched, []string{"adopt orphan", "release mine-relabelled"}) {
		t.Errorf("patched %v", patched)
	}
	// An owner that is another one by now must adopt nothing.
	c.Fresh = func(context.Context) (metav1.Object, error) {
		return &v1.Pod{ObjectMeta: metav1.ObjectMeta{UID: "new"}}, nil
	}
	patched = nil
	if _, err := c.Claim(t.Context(), objs[2:3]); err == nil || len(patched) != 0 {
		t.Errorf("adopted for a dead owner: %v, %v", patched, err)
	}
	// One that vanished meanwhile is no failure.
	c.Fresh = nil
	c.Patch = func(context.Context, *v1.Pod, []byte) error {
		return apierrors.NewNotFound(schema.GroupResource{Resource: "pods"}, "orphan")
	}
	if got, err := c.Claim(t.Context(), objs[2:3]); err != nil || len(got) != 0 {
		t.Errorf("vanished orphan: %v, %v", got, err)
	}
}

func TestExpectations(t *testing.T) {
	var e Expectations
	if !e.Met("k") {
		t.Error("nothing is expected of an unknown key")
	}
	e.Expect("k", 2, "a")
	e.Created("k", 1)
	e.Deleted("k", "b") // another's
	if e.Met("k") {
		t.Error("met with one creation and one deletion outstanding")
	}
	e.Created("k", 1)
	e.Deleted("k", "a")
	if !e.Met("k") {
		t.Error("not met though all was seen")
	}
	e.Expect("k", 1)
	e.Forget("k")
	if !e.Met("k") {
		t.Error("forgotten but not met")
	}
}

func TestSlowStartStopsAtTheFirstBatchThatFails(t *testing.T) {
	var calls atomic.Int32
	n, err := SlowStart(100, func(i int) error {
		if calls.Add(1) > 3 {
			return errors.New("quota")
		}
		return nil
	})
	if n != 3 || err == nil || calls.Load() != 7 { // 1 + 2 + 4
		t.Errorf("made %d with %d calls, %v; want 3 with 7 calls and an error", n, calls.Load(), err)
	}
	seen := make([]bool, 20)
	if n, err := SlowStart(20, func(i int) error { seen[i] = true; return nil }); n != 20 || err != nil || slices.Contains(seen, false) {
		t.Errorf("made %d of 20, %v, %s", n, err, strings.Trim(fmt.Sprint(seen), "[]"))
	}
}
