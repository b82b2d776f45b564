package validation

import (
	"fmt"
	"strings"

	appsv1 "k8s.io/api/apps/v1"
	batchv1 "k8s.io/api/batch/v1"
	corev1 "k8s.io/api/core/v1"
	networkingv1 "k8s.io/api/networking/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/util/validation"
	"k8s.io/apimachinery/pkg/util/validation/field"
)

// Warnings tells the client what is stored all the same but will not do what it looks like, or will stop doing so. old
// is nil on creation. A template that an update leaves alone is not warned about again. The result is nil for most
// objects.
func Warnings(obj, old runtime.Object) []string {
	w := &warned{}
	switch o := obj.(type) {
	case *corev1.Pod:
		if old == nil {
			w.hostname(o.Name, "the Pod's hostname")
		}
		w.pod(nil, &o.ObjectMeta, &o.Spec)
	case *networkingv1.Ingress:
		if _, ok := o.Annotations[ingressClassAnnotation]; ok && old == nil {
			w.add(`annotation "kubernetes.io/ingress.class" is deprecated, please use 'spec.ingressClassName' instead`)
		}
	case *corev1.PersistentVolume:
		if o.Spec.PersistentVolumeReclaimPolicy == corev1.PersistentVolumeReclaimRecycle {
			w.add("spec.persistentVolumeReclaimPolicy: The Recycle reclaim policy is deprecated. Instead, the recommended approach is to use dynamic provisioning.")
		}
	case *corev1.Node:
		if o.Spec.ConfigSource != nil {
			w.add("spec.configSource: the spec.configSource field is deprecated since v1.22 and has no effect")
		}
	default:
		w.workload(obj, old)
	}
	return w.list
}

const ingressClassAnnotation = "kubernetes.io/ingress.class"

type warned struct{ list []string }

func (w *warned) add(format string, args ...any) {
	if len(args) == 0 {
		w.list = append(w.list, format)
		return
	}
	w.list = append(w.list, fmt.Sprintf(format, args...))
}

// hostname warns of a name that pods take over as theirs, where it cannot be one.
func (w *warned) hostname(name, use string) {
	if messages := validation.IsDNS1123Label(name); name != "" && len(messages) > 0 {
		w.add("metadata.name: this is used in %s, which can result in surprising behavior; a DNS label is recommended: %v", use, messages)
	}
}

func (w *warned) workload(obj, old runtime.Object) {
	template, path := templateOf(obj)
	if template == nil {
		return
	}
	if old == nil {
		if m, ok := obj.(metav1.Object); ok {
			w.hostname(m.GetName(), "Pod names and hostnames")
		}
	} else if now, ok := obj.(metav1.Object); ok {
		if was, ok := old.(metav1.Object); ok && now.GetGeneration() == was.GetGeneration() {
			return
		}
	}
	w.pod(path, &template.ObjectMeta, &template.Spec)
}

// templateOf finds the pod template of a controller, and where it is.
func templateOf(obj runtime.Object) (*corev1.PodTemplateSpec, *field.Path) {
	at := field.NewPath("spec", "template")
	switch o := obj.(type) {
	case *appsv1.Deployment:
		return &o.Spec.Template, at
	case *appsv1.ReplicaSet:
		return &o.Spec.Template, at
	case *appsv1.StatefulSet:
		return &o.Spec.Template, at
	case *appsv1.DaemonSet:
		return &o.Spec.Template, at
	case *batchv1.Job:
		return &o.Spec.Template, at
	case *batchv1.CronJob:
		return &o.Spec.JobTemplate.Spec.Template, field.NewPath("spec", "jobTemplate", "spec", "template")
	case *corev1.ReplicationController:
		return o.Spec.Template, at
	case *corev1.PodTemplate:
		return &o.Template, field.NewPath("template")
	}
	return nil, nil
}

// oldLabels are labels of nodes that have other names today.
var oldLabels = map[string]string{
	"beta.kubernetes.io/arch":                  `deprecated since v1.14; use "kubernetes.io/arch" instead`,
	"beta.kubernetes.io/os":                    `deprecated since v1.14; use "kubernetes.io/os" instead`,
	"failure-domain.beta.kubernetes.io/region": `deprecated since v1.17; use "topology.kubernetes.io/region" instead`,
	"failure-domain.beta.kubernetes.io/zone":   `deprecated since v1.17; use "topology.kubernetes.io/zone" instead`,
	"beta.kubernetes.io/instance-type":         `deprecated since v1.17; use "node.kubernetes.io/instance-type" instead`,
}

func (w *warned) label(p *field.Path, key string) {
	if why, ok := oldLabels[key]; ok {
		w.add("%s: %s", p, why)
	}
}

func (w *warned) pod(p *field.Path, m *metav1.ObjectMeta, s *corev1.PodSpec) {
	spec, annotations := child(p, "spec"), child(p, "metadata").Child("annotations")
	for key := range sorted(m.Annotations) {
		switch {
		case key == "seccomp.security.alpha.kubernetes.io/pod":
			w.add(`%s: non-functional in v1.27+; use the "seccompProfile" field instead`, annotations.Key(key))
		case strings.HasPrefix(key, "container.seccomp.security.alpha.kubernetes.io/"):
			w.add(`%s: non-functional in v1.27+; use the "seccompProfile" field instead`, annotations.Key(key))
		case strings.HasPrefix(key, corev1.DeprecatedAppArmorBetaContainerAnnotationKeyPrefix):
			w.add(`%s: deprecated since v1.30; use the "appArmorProfile" field instead`, annotations.Key(key))
		case key == "scheduler.alpha.kubernetes.io/critical-pod":
			w.add(`%s: non-functional in v1.16+; use the "priorityClassName" field instead`, annotations.Key(key))
		}
	}
	for key := range sorted(s.NodeSelector) {
		w.label(spec.Child("nodeSelector").Key(key), key)
	}
	w.affinity(spec.Child("affinity"), s.Affinity)
	for i, c := range s.TopologySpreadConstraints {
		at := spec.Child("topologySpreadConstraints").Index(i)
		w.label(at.Child("topologyKey"), c.TopologyKey)
		if c.LabelSelector == nil {
			w.add("%s: a null labelSelector results in matching no pod", at.Child("labelSelector"))
		}
	}
	for i := range s.Volumes {
		w.volume(spec.Child("volumes").Index(i), &s.Volumes[i])
	}
	names := map[string]int{}
	for i, ref := range s.ImagePullSecrets {
		at := spec.Child("imagePullSecrets").Index(i)
		if ref.Name == "" {
			w.add("%s: invalid empty name %q", at, ref.Name)
			continue
		}
		if first, ok := names[ref.Name]; ok {
			w.add("%s: duplicate name %q, which may be dropped when using apply (first: %d)", at, ref.Name, first)
		}
		names[ref.Name] = i
	}
	if t := s.TerminationGracePeriodSeconds; t != nil && *t < 0 {
		w.add("%s: must be >= 0; negative values are invalid and will be treated as 1", spec.Child("terminationGracePeriodSeconds"))
	}
	for i := range s.InitContainers {
		w.container(spec.Child("initContainers").Index(i), &s.InitContainers[i])
	}
	for i := range s.Containers {
		w.container(spec.Child("containers").Index(i), &s.Containers[i])
	}
}

// child is p's child, or a path of its own where p is the root.
func child(p *field.Path, name string) *field.Path {
	if p == nil {
		return field.NewPath(name)
	}
	return p.Child(name)
}

func (w *warned) affinity(p *field.Path, a *corev1.Affinity) {
	if a == nil {
		return
	}
	if n := a.NodeAffinity; n != nil {
		if must := n.RequiredDuringSchedulingIgnoredDuringExecution; must != nil {
			for i, t := range must.NodeSelectorTerms {
				w.term(p.Child("nodeAffinity", "requiredDuringSchedulingIgnoredDuringExecution", "nodeSelectorTerms").Index(i), &t)
			}
		}
		for i, t := range n.PreferredDuringSchedulingIgnoredDuringExecution {
			at := p.Child("nodeAffinity", "preferredDuringSchedulingIgnoredDuringExecution").Index(i)
			w.term(at.Child("preference"), &t.Preference)
			if len(t.Preference.MatchExpressions)+len(t.Preference.MatchFields) == 0 {
				w.add("%s: a null or empty preferred scheduling term matches no object", at)
			}
		}
	}
	terms := func(p *field.Path, list []corev1.PodAffinityTerm) {
		for i, t := range list {
			if t.LabelSelector == nil {
				w.add("%s: a null labelSelector results in matching no pod", p.Index(i).Child("labelSelector"))
			}
		}
	}
	if a.PodAffinity != nil {
		terms(p.Child("podAffinity", "requiredDuringSchedulingIgnoredDuringExecution"), a.PodAffinity.RequiredDuringSchedulingIgnoredDuringExecution)
	}
	if a.PodAntiAffinity != nil {
		terms(p.Child("podAntiAffinity", "requiredDuringSchedulingIgnoredDuringExecution"), a.PodAntiAffinity.RequiredDuringSchedulingIgnoredDuringExecution)
	}
}

func (w *warned) term(p *field.Path, t *corev1.NodeSelectorTerm) {
	for i, e := range t.MatchExpressions {
		w.label(p.Child("matchExpressions").Index(i).Child("key"), e.Key)
	}
}

// volume warns of sources that no kubelet mounts any more.
func (w *warned) volume(p *field.Path, v *corev1.Volume) {
	old := func(set bool, name, why string) {
		if set {
			w.add("%s: %s", p.Child(name), why)
		}
	}
	old(v.GitRepo != nil, "gitRepo", "deprecated in v1.11, and disabled by default in v1.33+")
	old(v.PhotonPersistentDisk != nil, "photonPersistentDisk", "deprecated in v1.11, non-functional in v1.16+")
	old(v.StorageOS != nil, "storageOS", "deprecated in v1.22, non-functional in v1.25+")
	old(v.Glusterfs != nil, "glusterfs", "deprecated in v1.25, non-functional in v1.26+")
	old(v.CephFS != nil, "cephfs", "deprecated in v1.28, non-functional in v1.31+")
	old(v.RBD != nil, "rbd", "deprecated in v1.28, non-functional in v1.31+")
	old(v.ScaleIO != nil, "scaleIO", "deprecated in v1.16, non-functional in v1.22+")
	old(v.Flocker != nil, "flocker", "deprecated in v1.22, non-functional in v1.25+")
	old(v.Quobyte != nil, "quobyte", "deprecated in v1.22, non-functional in v1.25+")
}

func (w *warned) container(p *field.Path, c *corev1.Container) {
	for kind, list := range sorted(map[string]corev1.ResourceList{"limits": c.Resources.Limits, "requests": c.Resources.Requests}) {
		for _, name := range []corev1.ResourceName{corev1.ResourceEphemeralStorage, corev1.ResourceMemory} {
			if q, ok := list[name]; ok && q.MilliValue()%1000 != 0 {
				w.add("%s: fractional byte value %q is invalid, must be an integer", p.Child("resources", kind).Key(string(name)), q.String())
			}
		}
	}
	seen := map[string]bool{}
	for i, e := range c.Env {
		// A variable that is built from the earlier one of its name is meant.
		if seen[e.Name] && !strings.Contains(e.Value, "$("+e.Name+")") {
			w.add("%s: hides previous definition of %q, which may be dropped when using apply", p.Child("env").Index(i), e.Name)
		}
		seen[e.Name] = true
	}
	type port struct {
		number   int32
		host     int32
		hostIP   string
		protocol corev1.Protocol
	}
	ports := map[port]int{}
	for i, q := range c.Ports {
		key := port{q.ContainerPort, q.HostPort, q.HostIP, q.Protocol}
		if first, ok := ports[key]; ok {
			w.add("%s: duplicate port definition with %s", p.Child("ports").Index(i), p.Child("ports").Index(first))
			continue
		}
		ports[key] = i
	}
}
