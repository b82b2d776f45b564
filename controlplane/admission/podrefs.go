package admission

import (
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/util/sets"
)

// isMirror reports whether the pod is a node's picture of a static pod.
func isMirror(pod *corev1.Pod) bool {
	_, ok := pod.Annotations[corev1.MirrorPodAnnotationKey]
	return ok
}

// references are the objects that a pod names.
type references struct {
	secrets, configMaps, claims sets.Set[string]
}

func referencesOf(pod *corev1.Pod) references {
	r := references{secrets: volumeAndEnvSecrets(pod), configMaps: sets.New[string](), claims: sets.New[string]()}
	for _, s := range pod.Spec.ImagePullSecrets {
		r.secrets.Insert(s.Name)
	}
	for i := range pod.Spec.Volumes {
		v := &pod.Spec.Volumes[i]
		switch {
		case v.ConfigMap != nil:
			r.configMaps.Insert(v.ConfigMap.Name)
		case v.PersistentVolumeClaim != nil:
			r.claims.Insert(v.PersistentVolumeClaim.ClaimName)
		case v.Projected != nil:
			for _, s := range v.Projected.Sources {
				if s.ConfigMap != nil {
					r.configMaps.Insert(s.ConfigMap.Name)
				}
			}
		}
	}
	eachContainer(pod, func(c *corev1.Container) {
		for _, e := range c.Env {
			if e.ValueFrom != nil && e.ValueFrom.ConfigMapKeyRef != nil {
				r.configMaps.Insert(e.ValueFrom.ConfigMapKeyRef.Name)
			}
		}
		for _, e := range c.EnvFrom {
			if e.ConfigMapRef != nil {
				r.configMaps.Insert(e.ConfigMapRef.Name)
			}
		}
	})
	return r
}

// volumeAndEnvSecrets names the Secrets in volumes and in the environment of all containers.
func volumeAndEnvSecrets(pod *corev1.Pod) sets.Set[string] {
	out := sets.New[string]()
	local := func(ref *corev1.LocalObjectReference) {
		if ref != nil {
			out.Insert(ref.Name)
		}
	}
	for i := range pod.Spec.Volumes {
		v := &pod.Spec.Volumes[i].VolumeSource
		switch {
		case v.Secret != nil:
			out.Insert(v.Secret.SecretName)
		case v.Projected != nil:
			for _, s := range v.Projected.Sources {
				if s.Secret != nil {
					out.Insert(s.Secret.Name)
				}
			}
		case v.AzureFile != nil:
			out.Insert(v.AzureFile.SecretName)
		case v.CephFS != nil:
			local(v.CephFS.SecretRef)
		case v.Cinder != nil:
			local(v.Cinder.SecretRef)
		case v.FlexVolume != nil:
			local(v.FlexVolume.SecretRef)
		case v.RBD != nil:
			local(v.RBD.SecretRef)
		case v.ScaleIO != nil:
			local(v.ScaleIO.SecretRef)
		case v.ISCSI != nil:
			local(v.ISCSI.SecretRef)
		case v.StorageOS != nil:
			local(v.StorageOS.SecretRef)
		case v.CSI != nil:
			local(v.CSI.NodePublishSecretRef)
		}
	}
	eachContainer(pod, func(c *corev1.Container) { out = out.Union(secretsOfEnv(c.Env, c.EnvFrom)) })
	return out
}

func secretsOfEnv(env []corev1.EnvVar, from []corev1.EnvFromSource) sets.Set[string] {
	out := sets.New[string]()
	for _, e := range env {
		if e.ValueFrom != nil && e.ValueFrom.SecretKeyRef != nil {
			out.Insert(e.ValueFrom.SecretKeyRef.Name)
		}
	}
	for _, e := range from {
		if e.SecretRef != nil {
			out.Insert(e.SecretRef.Name)
		}
	}
	return out
}

// eachContainer visits init, app and ephemeral containers.
func eachContainer(pod *corev1.Pod, visit func(*corev1.Container)) {
	for _, group := range [][]corev1.Container{pod.Spec.InitContainers, pod.Spec.Containers} {
		for i := range group {
			visit(&group[i])
		}
	}
	for i := range pod.Spec.EphemeralContainers {
		visit((*corev1.Container)(&pod.Spec.EphemeralContainers[i].EphemeralContainerCommon))
	}
}

// isExtendedResource reports whether the name is a device's: with a domain that is not Kubernetes' own.
func isExtendedResource(name corev1.ResourceName) bool {
	s := string(name)
	domain, _, qualified := strings.Cut(s, "/")
	if !qualified || strings.HasPrefix(s, corev1.DefaultResourceRequestsPrefix) {
		return false
	}
	return !slices.ContainsFunc([]string{"kubernetes.io"}, func(own string) bool {
		return domain == own || strings.HasSuffix(domain, "."+own)
	})
}
