package deployment

import (
	"encoding/binary"
	"fmt"
	"hash/fnv"
	"maps"
	"slices"
	"strconv"
	"strings"

	appsv1 "k8s.io/api/apps/v1"
	v1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	"k8s.io/apimachinery/pkg/util/dump"
	"k8s.io/apimachinery/pkg/util/rand"
)

// Annotations that users and kubectl read.
const (
	annRevision = "deployment.kubernetes.io/revision"
	annHistory  = "deployment.kubernetes.io/revision-history"
	annDesired  = "deployment.kubernetes.io/desired-replicas"
	annMax      = "deployment.kubernetes.io/max-replicas"
	hashLabel   = appsv1.DefaultDeploymentUniqueLabelKey
)

// notCopied stay with the Deployment.
var notCopied = map[string]bool{
	v1.LastAppliedConfigAnnotation: true, annRevision: true, annHistory: true, annDesired: true, annMax: true,
	appsv1.DeprecatedRollbackTo: true,
}

func number(annotations map[string]string, key string) int64 {
	n, err := strconv.ParseInt(annotations[key], 10, 64)
	if err != nil {
		return 0
	}
	return n
}

func revisionOf(rs *appsv1.ReplicaSet) int64 { return number(rs.Annotations, annRevision) }
func desiredOf(rs *appsv1.ReplicaSet) int32  { return int32(number(rs.Annotations, annDesired)) }
func maxOf(rs *appsv1.ReplicaSet) int32      { return int32(number(rs.Annotations, annMax)) }

// templateHash names a template, the same way as upstream does, so that ReplicaSets made there are found here.
func templateHash(t *v1.PodTemplateSpec, collisions *int32) string {
	h := fnv.New32a()
	fmt.Fprintf(h, "%v", dump.ForHash(*t))
	if collisions != nil {
		b := make([]byte, 8)
		binary.LittleEndian.PutUint32(b, uint32(*collisions))
		h.Write(b)
	}
	return rand.SafeEncodeString(fmt.Sprint(h.Sum32()))
}

func sameTemplate(a, b *v1.PodTemplateSpec) bool {
	x, y := a.DeepCopy(), b.DeepCopy()
	delete(x.Labels, hashLabel)
	delete(y.Labels, hashLabel)
	if len(x.Labels) == 0 && len(y.Labels) == 0 {
		x.Labels, y.Labels = nil, nil
	}
	return equality.Semantic.DeepEqual(x, y)
}

// findNew is the oldest ReplicaSet with the Deployment's template: should two exist, the same one is always taken.
func findNew(d *appsv1.Deployment, sets []*appsv1.ReplicaSet) *appsv1.ReplicaSet {
	sets = slices.Clone(sets)
	slices.SortStableFunc(sets, byCreation)
	for _, rs := range sets {
		if sameTemplate(&rs.Spec.Template, &d.Spec.Template) {
			return rs
		}
	}
	return nil
}

func without(sets []*appsv1.ReplicaSet, rs *appsv1.ReplicaSet) (out []*appsv1.ReplicaSet) {
	for _, o := range sets {
		if rs == nil || o.UID != rs.UID {
			out = append(out, o)
		}
	}
	return out
}

func nextRevision(olds []*appsv1.ReplicaSet) int64 {
	var n int64
	for _, rs := range olds {
		n = max(n, revisionOf(rs))
	}
	return n + 1
}

// annotate brings the new ReplicaSet's annotations up to date and reports whether they changed. A revision only grows; the
// ones left behind go to the history.
func annotate(d *appsv1.Deployment, rs *appsv1.ReplicaSet, revision int64, exists bool) bool {
	before := maps.Clone(rs.Annotations)
	if rs.Annotations == nil {
		rs.Annotations = map[string]string{}
	}
	for k, v := range d.Annotations {
		if !notCopied[k] {
			rs.Annotations[k] = v
		}
	}
	old := rs.Annotations[annRevision]
	if revisionOf(rs) < revision {
		rs.Annotations[annRevision] = strconv.FormatInt(revision, 10)
		if old != "" && exists {
			history := rs.Annotations[annHistory]
			list := strings.Split(history, ",")
			if history == "" {
				list = nil
			}
			if !slices.Contains(list, old) {
				rs.Annotations[annHistory] = strings.Join(append(list, old), ",")
			}
		}
	}
	if !exists {
		setSizes(rs, wanted(d), mostPods(d))
	}
	return !maps.Equal(before, rs.Annotations)
}

func setSizes(rs *appsv1.ReplicaSet, desired, most int32) bool {
	d, m := strconv.Itoa(int(desired)), strconv.Itoa(int(most))
	if rs.Annotations[annDesired] == d && rs.Annotations[annMax] == m {
		return false
	}
	if rs.Annotations == nil {
		rs.Annotations = map[string]string{}
	}
	rs.Annotations[annDesired], rs.Annotations[annMax] = d, m
	return true
}

// surplus lists old ReplicaSets beyond the revision history limit, the oldest revisions first; only empty ones go.
func surplus(d *appsv1.Deployment, olds []*appsv1.ReplicaSet) (out []*appsv1.ReplicaSet) {
	if d.Spec.RevisionHistoryLimit == nil {
		return nil
	}
	var alive []*appsv1.ReplicaSet
	for _, rs := range olds {
		if rs.DeletionTimestamp == nil {
			alive = append(alive, rs)
		}
	}
	n := len(alive) - int(*d.Spec.RevisionHistoryLimit)
	if n <= 0 {
		return nil
	}
	slices.SortStableFunc(alive, func(a, b *appsv1.ReplicaSet) int {
		if c := revisionOf(a) - revisionOf(b); c != 0 {
			return int(c)
		}
		return byCreation(a, b)
	})
	for _, rs := range alive[:n] {
		if rs.Status.Replicas != 0 || size(rs) != 0 || rs.Generation > rs.Status.ObservedGeneration {
			continue
		}
		out = append(out, rs)
	}
	return out
}
