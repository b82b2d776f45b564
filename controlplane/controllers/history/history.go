package history

import (
	"bytes"
	"cmp"
	"context"
	"encoding/binary"
	"encoding/json"
	"fmt"
	"hash/fnv"
	"slices"

	appsv1 "k8s.io/api/apps/v1"
	v1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/dump"
	"k8s.io/apimachinery/pkg/util/rand"
	"k8s.io/client-go/kubernetes"
	appslisters "k8s.io/client-go/listers/apps/v1"

	"github.com/reevehq/reeve/controlplane/controllers/loop"
	"github.com/reevehq/reeve/controlplane/controllers/owner"
)

// HashLabel marks a revision with the hash in its name.
const HashLabel = "controller.kubernetes.io/hash"

// Store reads and writes revisions.
type Store struct {
	Client kubernetes.Interface
	Lister appslisters.ControllerRevisionLister
}

// Data is a template as kubectl rollout expects it in a revision: a strategic merge patch that replaces it.
func Data(t *v1.PodTemplateSpec) ([]byte, error) {
	raw, err := json.Marshal(t)
	if err != nil {
		return nil, fmt.Errorf("encode pod template: %w", err)
	}
	var m map[string]any
	if err := json.Unmarshal(raw, &m); err != nil {
		return nil, fmt.Errorf("encode pod template: %w", err)
	}
	m["$patch"] = "replace"
	return json.Marshal(map[string]any{"spec": map[string]any{"template": m}})
}

// Template reads a revision's pod template.
func Template(r *appsv1.ControllerRevision) (*v1.PodTemplateSpec, error) {
	var p struct {
		Spec struct {
			Template v1.PodTemplateSpec `json:"template"`
		} `json:"spec"`
	}
	if err := json.Unmarshal(r.Data.Raw, &p); err != nil {
		return nil, fmt.Errorf("decode revision %q: %w", r.Name, err)
	}
	return &p.Spec.Template, nil
}

// Same reports whether two revisions hold the same template.
func Same(a, b *appsv1.ControllerRevision) bool {
	if bytes.Equal(a.Data.Raw, b.Data.Raw) {
		return true
	}
	var x, y any
	if json.Unmarshal(a.Data.Raw, &x) != nil || json.Unmarshal(b.Data.Raw, &y) != nil {
		return false
	}
	p, _ := json.Marshal(x)
	q, _ := json.Marshal(y)
	return bytes.Equal(p, q)
}

// Hash names a value and a number of collisions.
func Hash(v any, collisions *int32) string {
	h := fnv.New32a()
	fmt.Fprintf(h, "%v", dump.ForHash(v))
	if collisions != nil {
		b := make([]byte, 8)
		binary.LittleEndian.PutUint32(b, uint32(*collisions))
		h.Write(b)
	}
	return rand.SafeEncodeString(fmt.Sprint(h.Sum32()))
}

// Claim lists the owner's revisions by number, the oldest first, adopting those that match.
func (s *Store) Claim(ctx context.Context, own metav1.Object, kind schema.GroupVersionKind, sel labels.Selector, fresh func(context.Context) (metav1.Object, error)) ([]*appsv1.ControllerRevision, error) {
	all, err := s.Lister.ControllerRevisions(own.GetNamespace()).List(labels.Everything())
	if err != nil {
		return nil, err
	}
	ctx, cancel := context.WithTimeout(ctx, loop.CallTimeout)
	defer cancel()
	c := owner.Claimer[*appsv1.ControllerRevision]{
		Owner: own, Kind: kind, Selector: sel, Fresh: fresh, Keep: true,
		Patch: func(ctx context.Context, r *appsv1.ControllerRevision, patch []byte) error {
			_, err := s.Client.AppsV1().ControllerRevisions(r.Namespace).Patch(ctx, r.Name, types.StrategicMergePatchType, patch, metav1.PatchOptions{})
			return err
		},
	}
	mine, err := c.Claim(ctx, all)
	slices.SortStableFunc(mine, func(a, b *appsv1.ControllerRevision) int {
		return cmp.Or(cmp.Compare(a.Revision, b.Revision), a.CreationTimestamp.Compare(b.CreationTimestamp.Time), cmp.Compare(a.Name, b.Name))
	})
	return mine, err
}

// New describes the revision for data; the caller creates it under a name of its choice.
func New(own metav1.Object, kind schema.GroupVersionKind, l map[string]string, data []byte, revision int64) *appsv1.ControllerRevision {
	return &appsv1.ControllerRevision{
		ObjectMeta: metav1.ObjectMeta{
			Namespace: own.GetNamespace(), Labels: l, OwnerReferences: []metav1.OwnerReference{*metav1.NewControllerRef(own, kind)},
		},
		Data: runtime.RawExtension{Raw: data}, Revision: revision,
	}
}

// ErrCollision says that another template has the name already.
var ErrCollision = fmt.Errorf("another revision has that name: %w", loop.ErrLater)

// Create stores the revision. If one of the name exists and is ours with the same data, that one is returned; if not,
// ErrCollision: count it and choose another name.
func (s *Store) Create(ctx context.Context, r *appsv1.ControllerRevision) (*appsv1.ControllerRevision, error) {
	ctx, cancel := context.WithTimeout(ctx, loop.CallTimeout)
	defer cancel()
	client := s.Client.AppsV1().ControllerRevisions(r.Namespace)
	made, err := client.Create(ctx, r, metav1.CreateOptions{})
	if !apierrors.IsAlreadyExists(err) {
		if err != nil {
			return nil, fmt.Errorf("create revision %q: %w", r.Name, err)
		}
		return made, nil
	}
	have, err := client.Get(ctx, r.Name, metav1.GetOptions{})
	if err != nil {
		return nil, fmt.Errorf("get revision %q: %w", r.Name, err)
	}
	if Same(have, r) && metav1.IsControlledBy(have, &metav1.ObjectMeta{UID: r.OwnerReferences[0].UID}) {
		return have, nil
	}
	return nil, ErrCollision
}

// Renumber makes a revision the newest.
func (s *Store) Renumber(ctx context.Context, r *appsv1.ControllerRevision, revision int64) (*appsv1.ControllerRevision, error) {
	if r.Revision == revision {
		return r, nil
	}
	next := r.DeepCopy()
	next.Revision = revision
	ctx, cancel := context.WithTimeout(ctx, loop.CallTimeout)
	defer cancel()
	out, err := s.Client.AppsV1().ControllerRevisions(r.Namespace).Update(ctx, next, metav1.UpdateOptions{})
	if err != nil {
		return nil, fmt.Errorf("renumber revision %q: %w", r.Name, err)
	}
	return out, nil
}

// Prune deletes the oldest revisions that are not live beyond the limit.
func (s *Store) Prune(ctx context.Context, all []*appsv1.ControllerRevision, limit int, live func(*appsv1.ControllerRevision) bool) error {
	var idle []*appsv1.ControllerRevision
	for _, r := range all {
		if !live(r) {
			idle = append(idle, r)
		}
	}
	ctx, cancel := context.WithTimeout(ctx, loop.CallTimeout)
	defer cancel()
	for _, r := range idle[:max(len(idle)-limit, 0)] {
		err := s.Client.AppsV1().ControllerRevisions(r.Namespace).Delete(ctx, r.Name, metav1.DeleteOptions{})
		if err != nil && !apierrors.IsNotFound(err) {
			return fmt.Errorf("delete old revision %q: %w", r.Name, err)
		}
	}
	return nil
}

// Next is the number after the highest.
func Next(all []*appsv1.ControllerRevision) int64 {
	var n int64
	for _, r := range all {
		n = max(n, r.Revision)
	}
	return n + 1
}
