package core

import (
	"strings"

	corev1 "k8s.io/api/core/v1"

	"github.com/reevehq/reeve/controlplane/apis/defaults/fill"
)

// SetDefaults_Container fills pull policy and termination message. It does not touch resources: requests follow
// limits on pods only, see SetDefaults_Pod.
func SetDefaults_Container(c *corev1.Container) {
	fill.Zero(&c.ImagePullPolicy, pullPolicy(c.Image))
	fill.Zero(&c.TerminationMessagePath, corev1.TerminationMessagePathDefault)
	fill.Zero(&c.TerminationMessagePolicy, corev1.TerminationMessageReadFile)
}

// SetDefaults_EphemeralContainer fills an ephemeral container as its common half would be as a container.
func SetDefaults_EphemeralContainer(c *corev1.EphemeralContainer) {
	SetDefaults_Container((*corev1.Container)(&c.EphemeralContainerCommon))
}

// SetDefaults_Probe fills the timing of a probe: 1 s timeout every 10 s, up after one success, down after three
// failures.
func SetDefaults_Probe(p *corev1.Probe) {
	fill.Zero(&p.TimeoutSeconds, 1)
	fill.Zero(&p.PeriodSeconds, 10)
	fill.Zero(&p.SuccessThreshold, 1)
	fill.Zero(&p.FailureThreshold, 3)
}

// SetDefaults_HTTPGetAction fills path and scheme of a probe or lifecycle handler.
func SetDefaults_HTTPGetAction(a *corev1.HTTPGetAction) {
	fill.Zero(&a.Path, "/")
	fill.Zero(&a.Scheme, corev1.URISchemeHTTP)
}

// SetDefaults_ObjectFieldSelector fills the API version that a fieldRef is read in.
func SetDefaults_ObjectFieldSelector(s *corev1.ObjectFieldSelector) {
	fill.Zero(&s.APIVersion, "v1")
}

// pullPolicy is Always for an image without tag and digest or with the tag "latest", else IfNotPresent. A reference
// that does not parse counts as tagged: validation reports it.
func pullPolicy(image string) corev1.PullPolicy {
	name, digest, pinned := strings.Cut(image, "@")
	tag := ""
	if i := strings.LastIndexByte(name, ':'); i >= 0 && !strings.ContainsRune(name[i:], '/') {
		tag = name[i+1:]
	}
	switch {
	case name == "" || strings.ContainsAny(image, " \t\n"):
		return corev1.PullIfNotPresent
	case tag == "latest":
		return corev1.PullAlways
	case tag == "" && !(pinned && digest != ""):
		return corev1.PullAlways
	}
	return corev1.PullIfNotPresent
}
