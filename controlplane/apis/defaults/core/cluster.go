package core

import (
	"maps"

	corev1 "k8s.io/api/core/v1"

	"github.com/reevehq/reeve/controlplane/apis/defaults/fill"
)

// SetDefaults_Namespace labels a namespace with its own name, so that selectors can name namespaces. One that awaits a
// generated name is labelled by its strategy.
func SetDefaults_Namespace(n *corev1.Namespace) {
	if n.Name == "" {
		return
	}
	if n.Labels == nil {
		n.Labels = map[string]string{}
	}
	n.Labels[corev1.LabelMetadataName] = n.Name
}

// SetDefaults_NamespaceStatus fills the phase.
func SetDefaults_NamespaceStatus(s *corev1.NamespaceStatus) {
	fill.Zero(&s.Phase, corev1.NamespaceActive)
}

// SetDefaults_NodeStatus makes all capacity allocatable where the node says nothing about it.
func SetDefaults_NodeStatus(s *corev1.NodeStatus) {
	if s.Allocatable == nil && s.Capacity != nil {
		s.Allocatable = s.Capacity.DeepCopy()
	}
}

// SetDefaults_NodeSpec keeps the single pod range and the first of the list the same. Where they differ the single one
// counts: it comes from a client that does not know the list.
func SetDefaults_NodeSpec(s *corev1.NodeSpec) {
	switch {
	case s.PodCIDR == "" && len(s.PodCIDRs) > 0:
		s.PodCIDR = s.PodCIDRs[0]
	case s.PodCIDR != "" && (len(s.PodCIDRs) == 0 || s.PodCIDRs[0] != s.PodCIDR):
		s.PodCIDRs = []string{s.PodCIDR}
	}
}

// SetDefaults_ConfigMap gives data a map, as clients of the stored object expect.
func SetDefaults_ConfigMap(c *corev1.ConfigMap) {
	if c.Data == nil {
		c.Data = map[string]string{}
	}
}

// SetDefaults_Secret fills the type, and moves stringData, which is for writing only, over data.
func SetDefaults_Secret(s *corev1.Secret) {
	if len(s.StringData) > 0 && s.Data == nil {
		s.Data = make(map[string][]byte, len(s.StringData))
	}
	for key, value := range s.StringData {
		s.Data[key] = []byte(value)
	}
	s.StringData = nil
	fill.Zero(&s.Type, corev1.SecretTypeOpaque)
}

// SetDefaults_ReplicationController takes selector and labels from the template. Replicas are 1 by the type's marker.
func SetDefaults_ReplicationController(rc *corev1.ReplicationController) {
	if rc.Spec.Template == nil || rc.Spec.Template.Labels == nil {
		return
	}
	if len(rc.Spec.Selector) == 0 {
		rc.Spec.Selector = maps.Clone(rc.Spec.Template.Labels)
	}
	if len(rc.Labels) == 0 {
		rc.Labels = maps.Clone(rc.Spec.Template.Labels)
	}
}

// SetDefaults_LimitRangeItem derives a container's default limit from the maximum, its default request from the
// default limit, else from the minimum.
func SetDefaults_LimitRangeItem(item *corev1.LimitRangeItem) {
	if item.Type != corev1.LimitTypeContainer {
		return
	}
	if item.Default == nil {
		item.Default = corev1.ResourceList{}
	}
	if item.DefaultRequest == nil {
		item.DefaultRequest = corev1.ResourceList{}
	}
	addMissing(item.Default, item.Max)
	addMissing(item.DefaultRequest, item.Default)
	addMissing(item.DefaultRequest, item.Min)
}
