package volumes

import (
	"fmt"
	"path/filepath"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
)

// kind is how a volume is made.
type kind int

const (
	kindEmptyDir kind = iota
	kindHostPath
	kindConfigMap
	kindSecret
	kindDownwardAPI
	kindProjected
	kindClaim
	kindImage
)

// plugin is the folder name under volumes/ that kubelet uses for the kind, so that CSI drivers, log collectors and
// operators find what they know. Empty: nothing lies there.
func (k kind) plugin() string {
	switch k {
	case kindEmptyDir:
		return "kubernetes.io~empty-dir"
	case kindConfigMap:
		return "kubernetes.io~configmap"
	case kindSecret:
		return "kubernetes.io~secret"
	case kindDownwardAPI:
		return "kubernetes.io~downward-api"
	case kindProjected:
		return "kubernetes.io~projected"
	}
	return ""
}

// step is one volume to set up.
type step struct {
	Name string
	Kind kind
	// Dir is where the content lies, relative to the pod's volumes folder; empty where the volume has no folder.
	Dir string
	Vol *corev1.Volume
}

// planSetUp names a step for each volume that some container mounts, in the order of the spec; a volume that nobody
// mounts is left alone, so that it cannot hold the pod up. A volume that this node cannot make is an error under its
// name. Pure.
func planSetUp(pod *corev1.Pod) (steps []step, errs map[string]error) {
	used := usedVolumes(pod)
	errs = map[string]error{}
	for i := range pod.Spec.Volumes {
		v := &pod.Spec.Volumes[i]
		if !used[v.Name] {
			continue
		}
		delete(used, v.Name)
		k, ok := kindOf(v)
		if !ok {
			errs[v.Name] = fmt.Errorf("volume %q is of a kind that this node does not support", v.Name)
			continue
		}
		s := step{Name: v.Name, Kind: k, Vol: v}
		if p := k.plugin(); p != "" {
			s.Dir = filepath.Join(p, v.Name)
		}
		steps = append(steps, s)
	}
	for name := range used {
		errs[name] = fmt.Errorf("a container mounts volume %q, which the pod does not have", name)
	}
	return steps, errs
}

func kindOf(v *corev1.Volume) (kind, bool) {
	switch {
	case v.EmptyDir != nil:
		return kindEmptyDir, true
	case v.HostPath != nil:
		return kindHostPath, true
	case v.ConfigMap != nil:
		return kindConfigMap, true
	case v.Secret != nil:
		return kindSecret, true
	case v.DownwardAPI != nil:
		return kindDownwardAPI, true
	case v.Projected != nil:
		return kindProjected, true
	case v.PersistentVolumeClaim != nil:
		return kindClaim, true
	case v.Image != nil:
		return kindImage, true
	case v.VolumeSource == (corev1.VolumeSource{}):
		return kindEmptyDir, true // core/v1: a volume without a source is an emptyDir
	}
	return 0, false
}

func usedVolumes(pod *corev1.Pod) map[string]bool {
	used := map[string]bool{}
	mark := func(ms []corev1.VolumeMount, ds []corev1.VolumeDevice) {
		for _, m := range ms {
			used[m.Name] = true
		}
		for _, d := range ds {
			used[d.Name] = true
		}
	}
	for i := range pod.Spec.InitContainers {
		mark(pod.Spec.InitContainers[i].VolumeMounts, pod.Spec.InitContainers[i].VolumeDevices)
	}
	for i := range pod.Spec.Containers {
		mark(pod.Spec.Containers[i].VolumeMounts, pod.Spec.Containers[i].VolumeDevices)
	}
	for i := range pod.Spec.EphemeralContainers {
		mark(pod.Spec.EphemeralContainers[i].VolumeMounts, pod.Spec.EphemeralContainers[i].VolumeDevices)
	}
	return used
}

// tearDown is what is to be done to remove a pod's volumes, in order.
type tearDown struct {
	Unmount []string // mount points, deepest and youngest first; one path may stand there several times
	Remove  []string // folders, once nothing is mounted below them
}

// planTearDown turns the mount points found below the pod's folders (in mount order, as mountinfo gives them) and those
// folders into the order of removal. Pure.
func planTearDown(roots, mounts []string) tearDown {
	var td tearDown
	for _, mp := range slices.Backward(mounts) {
		for _, r := range roots {
			if within(r, mp) {
				td.Unmount = append(td.Unmount, mp)
				break
			}
		}
	}
	// A child may have been mounted before its parent was mounted over; depth decides, age breaks ties.
	slices.SortStableFunc(td.Unmount, func(a, b string) int { return strings.Count(b, "/") - strings.Count(a, "/") })
	td.Remove = slices.Clone(roots)
	return td
}

// within says whether path is root or lies below it. Both are clean.
func within(root, path string) bool {
	return path == root || strings.HasPrefix(path, strings.TrimSuffix(root, "/")+"/")
}
