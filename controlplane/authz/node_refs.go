package authz

import (
	"context"
	"time"

	corev1 "k8s.io/api/core/v1"
)

// refKind is a kind of object that a pod may refer to.
type refKind int

const (
	secretRef refKind = iota
	configMapRef
	claimRef
	volumeRef
	resourceClaimRef
	accountRef
)

// runs says whether the pod is bound to the node.
func (n *Node) runs(ctx context.Context, node, namespace, name string) bool {
	return n.eventually(ctx, func() bool {
		pod, err := n.podOf.Pods(namespace).Get(name)
		return err == nil && pod.Spec.NodeName == node
	})
}

// eventually gives the informers a moment to show what the caller already knows.
func (n *Node) eventually(ctx context.Context, holds func() bool) bool {
	if holds() {
		return true
	}
	for _, pause := range n.lagSteps {
		select {
		case <-ctx.Done():
			return false
		case <-time.After(pause):
		}
		if holds() {
			return true
		}
	}
	return false
}

func (n *Node) refersTo(ctx context.Context, node string, kind refKind, namespace, name string) bool {
	return n.eventually(ctx, func() bool { return n.refersNow(node, kind, namespace, name) })
}

// refersNow says whether a pod on the node needs the object, itself or through its claims and their volumes. Volumes,
// and the Secrets that volumes name, may lie outside the pod's namespace.
func (n *Node) refersNow(node string, kind refKind, namespace, name string) bool {
	objs, err := n.pods.ByIndex(podNodeIndex, node)
	if err != nil {
		return false
	}
	for _, obj := range objs {
		pod := obj.(*corev1.Pod)
		// A pod that a node made for itself (a mirror of a static file) must not open Secrets to it.
		if _, mirror := pod.Annotations[corev1.MirrorPodAnnotationKey]; mirror {
			continue
		}
		if kind != volumeRef && pod.Namespace == namespace && podRefers(pod, kind, name) {
			return true
		}
		if kind == volumeRef || kind == secretRef {
			for _, claim := range podClaims(pod) {
				if n.claimReaches(pod.Namespace, claim, kind, namespace, name) {
					return true
				}
			}
		}
	}
	return false
}

// claimReaches: claim → bound volume, and volume → the Secrets in its source.
func (n *Node) claimReaches(claimNamespace, claim string, kind refKind, namespace, name string) bool {
	pvc, err := n.claims.PersistentVolumeClaims(claimNamespace).Get(claim)
	if err != nil || pvc.Spec.VolumeName == "" {
		return false
	}
	if kind == volumeRef && pvc.Spec.VolumeName != name {
		return false
	}
	pv, err := n.volumes.Get(pvc.Spec.VolumeName)
	if err != nil || pv.Spec.ClaimRef == nil || pv.Spec.ClaimRef.Namespace != claimNamespace || pv.Spec.ClaimRef.Name != claim {
		return false // the claim only says that it wants this volume; the volume must agree
	}
	return kind == volumeRef || volumeSecret(pv, namespace, name)
}

func podRefers(pod *corev1.Pod, kind refKind, name string) bool {
	switch kind {
	case secretRef:
		return podSecret(pod, name)
	case configMapRef:
		return podConfigMap(pod, name)
	case accountRef:
		return pod.Spec.ServiceAccountName == name
	case claimRef:
		for _, c := range podClaims(pod) {
			if c == name {
				return true
			}
		}
	case resourceClaimRef:
		for i := range pod.Spec.ResourceClaims {
			if c := pod.Spec.ResourceClaims[i].ResourceClaimName; c != nil && *c == name {
				return true
			}
		}
		for i := range pod.Status.ResourceClaimStatuses {
			if c := pod.Status.ResourceClaimStatuses[i].ResourceClaimName; c != nil && *c == name {
				return true
			}
		}
		if e := pod.Status.ExtendedResourceClaimStatus; e != nil && e.ResourceClaimName == name {
			return true
		}
	}
	return false
}

// podClaims names the claims that the pod mounts; that of a generic ephemeral volume is <pod>-<volume>.
func podClaims(pod *corev1.Pod) []string {
	var claims []string
	for i := range pod.Spec.Volumes {
		v := &pod.Spec.Volumes[i]
		switch {
		case v.PersistentVolumeClaim != nil:
			claims = append(claims, v.PersistentVolumeClaim.ClaimName)
		case v.Ephemeral != nil:
			claims = append(claims, pod.Name+"-"+v.Name)
		}
	}
	return claims
}

// eachContainer visits the environment of every container of the pod until visit returns true.
func eachContainer(pod *corev1.Pod, visit func([]corev1.EnvVar, []corev1.EnvFromSource) bool) bool {
	for i := range pod.Spec.InitContainers {
		if visit(pod.Spec.InitContainers[i].Env, pod.Spec.InitContainers[i].EnvFrom) {
			return true
		}
	}
	for i := range pod.Spec.Containers {
		if visit(pod.Spec.Containers[i].Env, pod.Spec.Containers[i].EnvFrom) {
			return true
		}
	}
	for i := range pod.Spec.EphemeralContainers {
		if visit(pod.Spec.EphemeralContainers[i].Env, pod.Spec.EphemeralContainers[i].EnvFrom) {
			return true
		}
	}
	return false
}

func podSecret(pod *corev1.Pod, name string) bool {
	for i := range pod.Spec.ImagePullSecrets {
		if pod.Spec.ImagePullSecrets[i].Name == name {
			return true
		}
	}
	for i := range pod.Spec.Volumes {
		if sourceSecret(&pod.Spec.Volumes[i].VolumeSource, name) {
			return true
		}
	}
	return eachContainer(pod, func(env []corev1.EnvVar, from []corev1.EnvFromSource) bool {
		for i := range env {
			if f := env[i].ValueFrom; f != nil && f.SecretKeyRef != nil && f.SecretKeyRef.Name == name {
				return true
			}
		}
		for i := range from {
			if from[i].SecretRef != nil && from[i].SecretRef.Name == name {
				return true
			}
		}
		return false
	})
}

func podConfigMap(pod *corev1.Pod, name string) bool {
	for i := range pod.Spec.Volumes {
		v := &pod.Spec.Volumes[i]
		if v.ConfigMap != nil && v.ConfigMap.Name == name {
			return true
		}
		if v.Projected == nil {
			continue
		}
		for j := range v.Projected.Sources {
			if c := v.Projected.Sources[j].ConfigMap; c != nil && c.Name == name {
				return true
			}
		}
	}
	return eachContainer(pod, func(env []corev1.EnvVar, from []corev1.EnvFromSource) bool {
		for i := range env {
			if f := env[i].ValueFrom; f != nil && f.ConfigMapKeyRef != nil && f.ConfigMapKeyRef.Name == name {
				return true
			}
		}
		for i := range from {
			if from[i].ConfigMapRef != nil && from[i].ConfigMapRef.Name == name {
				return true
			}
		}
		return false
	})
}

// sourceSecret covers every volume source of a pod that names a Secret of the pod's namespace.
func sourceSecret(v *corev1.VolumeSource, name string) bool {
	local := func(r *corev1.LocalObjectReference) bool { return r != nil && r.Name == name }
	switch {
	case v.Secret != nil:
		return v.Secret.SecretName == name
	case v.Projected != nil:
		for i := range v.Projected.Sources {
			if s := v.Projected.Sources[i].Secret; s != nil && s.Name == name {
				return true
			}
		}
	case v.AzureFile != nil:
		return v.AzureFile.SecretName == name
	case v.CephFS != nil:
		return local(v.CephFS.SecretRef)
	case v.Cinder != nil:
		return local(v.Cinder.SecretRef)
	case v.CSI != nil:
		return local(v.CSI.NodePublishSecretRef)
	case v.FlexVolume != nil:
		return local(v.FlexVolume.SecretRef)
	case v.ISCSI != nil:
		return local(v.ISCSI.SecretRef)
	case v.RBD != nil:
		return local(v.RBD.SecretRef)
	case v.ScaleIO != nil:
		return local(v.ScaleIO.SecretRef)
	case v.StorageOS != nil:
		return local(v.StorageOS.SecretRef)
	}
	return false
}

// volumeSecret covers the Secrets that a node needs to mount the volume. Secrets for the CSI controller (provisioning,
// attaching) are not the node's business.
func volumeSecret(pv *corev1.PersistentVolume, namespace, name string) bool {
	ref := func(r *corev1.SecretReference) bool {
		if r == nil || r.Name != name {
			return false
		}
		ns := r.Namespace
		if ns == "" && pv.Spec.ClaimRef != nil {
			ns = pv.Spec.ClaimRef.Namespace
		}
		return ns == namespace
	}
	s := &pv.Spec.PersistentVolumeSource
	switch {
	case s.CSI != nil:
		return ref(s.CSI.NodePublishSecretRef) || ref(s.CSI.NodeStageSecretRef) || ref(s.CSI.NodeExpandSecretRef)
	case s.AzureFile != nil:
		r := &corev1.SecretReference{Name: s.AzureFile.SecretName}
		if s.AzureFile.SecretNamespace != nil {
			r.Namespace = *s.AzureFile.SecretNamespace
		}
		return ref(r)
	case s.CephFS != nil:
		return ref(s.CephFS.SecretRef)
	case s.Cinder != nil:
		return ref(s.Cinder.SecretRef)
	case s.FlexVolume != nil:
		return ref(s.FlexVolume.SecretRef)
	case s.ISCSI != nil:
		return ref(s.ISCSI.SecretRef)
	case s.RBD != nil:
		return ref(s.RBD.SecretRef)
	case s.ScaleIO != nil:
		return ref(s.ScaleIO.SecretRef)
	case s.StorageOS != nil:
		r := s.StorageOS.SecretRef
		return r != nil && r.Name == name && r.Namespace == namespace
	}
	return false
}
