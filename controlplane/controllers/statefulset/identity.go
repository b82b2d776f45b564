package statefulset

import (
	"fmt"
	"maps"
	"regexp"
	"slices"
	"strconv"

	appsv1 "k8s.io/api/apps/v1"
	v1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/utils/ptr"

	"github.com/reevehq/reeve/controlplane/controllers/podctl"
)

var numbered = regexp.MustCompile(`^(.*)-([0-9]+)$`)

// ordinal is the number in a pod's name, or -1 if the pod does not belong to the set by name.
func ordinal(set *appsv1.StatefulSet, p *v1.Pod) int {
	m := numbered.FindStringSubmatch(p.Name)
	if m == nil || m[1] != set.Name {
		return -1
	}
	n, err := strconv.ParseInt(m[2], 10, 32)
	if err != nil {
		return -1
	}
	return int(n)
}

func first(set *appsv1.StatefulSet) int {
	if set.Spec.Ordinals != nil {
		return int(set.Spec.Ordinals.Start)
	}
	return 0
}

func podName(set *appsv1.StatefulSet, n int) string { return fmt.Sprintf("%s-%d", set.Name, n) }

func claimName(set *appsv1.StatefulSet, t *v1.PersistentVolumeClaim, n int) string {
	return fmt.Sprintf("%s-%s-%d", t.Name, set.Name, n)
}

// newPod is the n-th pod of the set at a revision, whose template is t.
func newPod(set *appsv1.StatefulSet, t *v1.PodTemplateSpec, revision string, n int) *v1.Pod {
	p := podctl.FromTemplate(t, set.Namespace, set.Name, metav1.NewControllerRef(set, kind))
	p.GenerateName = ""
	p.Name = podName(set, n)
	identify(set, p, n)
	p.Labels[appsv1.ControllerRevisionHashLabelKey] = revision
	p.Spec.Hostname = p.Name
	p.Spec.Subdomain = set.Spec.ServiceName
	return p
}

// identify sets labels and volumes by which the pod is the n-th.
func identify(set *appsv1.StatefulSet, p *v1.Pod, n int) {
	if p.Labels == nil {
		p.Labels = map[string]string{}
	}
	p.Labels[appsv1.StatefulSetPodNameLabel] = podName(set, n)
	p.Labels[appsv1.PodIndexLabel] = strconv.Itoa(n)
	var volumes []v1.Volume
	own := map[string]bool{}
	for i := range set.Spec.VolumeClaimTemplates {
		t := &set.Spec.VolumeClaimTemplates[i]
		own[t.Name] = true
		volumes = append(volumes, v1.Volume{Name: t.Name, VolumeSource: v1.VolumeSource{
			PersistentVolumeClaim: &v1.PersistentVolumeClaimVolumeSource{ClaimName: claimName(set, t, n)},
		}})
	}
	for _, v := range p.Spec.Volumes {
		if !own[v.Name] {
			volumes = append(volumes, v)
		}
	}
	p.Spec.Volumes = volumes
}

func identified(set *appsv1.StatefulSet, p *v1.Pod, n int) bool {
	return p.Labels[appsv1.StatefulSetPodNameLabel] == podName(set, n) && p.Labels[appsv1.PodIndexLabel] == strconv.Itoa(n)
}

// claims are the PersistentVolumeClaims of the n-th pod.
func claims(set *appsv1.StatefulSet, n int) (out []*v1.PersistentVolumeClaim) {
	for i := range set.Spec.VolumeClaimTemplates {
		t := &set.Spec.VolumeClaimTemplates[i]
		c := t.DeepCopy()
		c.Name, c.Namespace = claimName(set, t, n), set.Namespace
		c.Labels = maps.Clone(t.Labels)
		if c.Labels == nil {
			c.Labels = map[string]string{}
		}
		if set.Spec.Selector != nil {
			maps.Copy(c.Labels, set.Spec.Selector.MatchLabels)
		}
		out = append(out, c)
	}
	return out
}

// retention is the owners that a claim should have by the set's persistentVolumeClaimRetentionPolicy: the set if claims go with
// it, the pod if they go when the set shrinks below it. condemned says that the pod's number is beyond the set.
func retention(set *appsv1.StatefulSet, p *v1.Pod, condemned bool, have []metav1.OwnerReference) ([]metav1.OwnerReference, bool) {
	policy := set.Spec.PersistentVolumeClaimRetentionPolicy
	whenDeleted, whenScaled := appsv1.RetainPersistentVolumeClaimRetentionPolicyType, appsv1.RetainPersistentVolumeClaimRetentionPolicyType
	if policy != nil {
		whenDeleted, whenScaled = policy.WhenDeleted, policy.WhenScaled
	}
	bySet := whenDeleted == appsv1.DeletePersistentVolumeClaimRetentionPolicyType && !(condemned && whenScaled == appsv1.DeletePersistentVolumeClaimRetentionPolicyType)
	byPod := whenScaled == appsv1.DeletePersistentVolumeClaimRetentionPolicyType && condemned && p != nil
	out := slices.DeleteFunc(slices.Clone(have), func(r metav1.OwnerReference) bool {
		return r.UID == set.UID && !bySet || r.Kind == "Pod" && r.Name != "" && numberedOf(set, r.Name) && !(byPod && p != nil && r.UID == p.UID)
	})
	add := func(ref metav1.OwnerReference) {
		if !slices.ContainsFunc(out, func(r metav1.OwnerReference) bool { return r.UID == ref.UID }) {
			out = append(out, ref)
		}
	}
	if bySet {
		ref := *metav1.NewControllerRef(set, kind)
		ref.BlockOwnerDeletion = ptr.To(false)
		add(ref)
	}
	if byPod {
		add(metav1.OwnerReference{APIVersion: "v1", Kind: "Pod", Name: p.Name, UID: p.UID})
	}
	return out, !slices.EqualFunc(have, out, func(a, b metav1.OwnerReference) bool { return a.UID == b.UID && a.Kind == b.Kind })
}

func numberedOf(set *appsv1.StatefulSet, name string) bool {
	m := numbered.FindStringSubmatch(name)
	return m != nil && m[1] == set.Name
}
