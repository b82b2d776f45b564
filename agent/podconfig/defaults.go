package podconfig

import (
	"strings"

	v1 "k8s.io/api/core/v1"
)

func def[T comparable](p *T, v T) {
	var zero T
	if *p == zero {
		*p = v
	}
}

func ptr[T any](p **T, v T) {
	if *p == nil {
		*p = &v
	}
}

// setDefaults fills what the API server would (core/v1 field documentation).
func setDefaults(pod *v1.Pod) {
	s := &pod.Spec
	def(&s.RestartPolicy, v1.RestartPolicyAlways)
	def(&s.DNSPolicy, v1.DNSClusterFirst)
	def(&s.SchedulerName, v1.DefaultSchedulerName)
	ptr(&s.TerminationGracePeriodSeconds, 30)
	ptr(&s.EnableServiceLinks, true)
	if s.SecurityContext == nil {
		s.SecurityContext = &v1.PodSecurityContext{}
	}
	for i := range s.Volumes {
		v := &s.Volumes[i]
		switch {
		case v.HostPath != nil:
			ptr(&v.HostPath.Type, v1.HostPathUnset)
		case v.DownwardAPI != nil:
			ptr(&v.DownwardAPI.DefaultMode, v1.DownwardAPIVolumeSourceDefaultMode)
		case v.Projected != nil:
			ptr(&v.Projected.DefaultMode, v1.ProjectedVolumeSourceDefaultMode)
		case v.VolumeSource == v1.VolumeSource{}:
			v.EmptyDir = &v1.EmptyDirVolumeSource{}
		}
	}
	for i := range s.InitContainers {
		containerDefaults(&s.InitContainers[i], s.HostNetwork)
	}
	for i := range s.Containers {
		containerDefaults(&s.Containers[i], s.HostNetwork)
	}
}

func containerDefaults(c *v1.Container, hostNetwork bool) {
	def(&c.TerminationMessagePath, v1.TerminationMessagePathDefault)
	def(&c.TerminationMessagePolicy, v1.TerminationMessageReadFile)
	if c.ImagePullPolicy == "" {
		c.ImagePullPolicy = v1.PullIfNotPresent
		name := c.Image[strings.LastIndexByte(c.Image, '/')+1:]
		if !strings.Contains(c.Image, "@") && (!strings.Contains(name, ":") || strings.HasSuffix(name, ":latest")) {
			c.ImagePullPolicy = v1.PullAlways
		}
	}
	for i := range c.Ports {
		p := &c.Ports[i]
		def(&p.Protocol, v1.ProtocolTCP)
		if hostNetwork {
			def(&p.HostPort, p.ContainerPort)
		}
	}
	for _, p := range []*v1.Probe{c.LivenessProbe, c.ReadinessProbe, c.StartupProbe} {
		if p == nil {
			continue
		}
		def(&p.TimeoutSeconds, 1)
		def(&p.PeriodSeconds, 10)
		def(&p.SuccessThreshold, 1)
		def(&p.FailureThreshold, 3)
		httpDefaults(p.HTTPGet)
		if p.GRPC != nil {
			ptr(&p.GRPC.Service, "")
		}
	}
	if c.Lifecycle != nil {
		for _, h := range []*v1.LifecycleHandler{c.Lifecycle.PostStart, c.Lifecycle.PreStop} {
			if h != nil {
				httpDefaults(h.HTTPGet)
			}
		}
	}
	for name, q := range c.Resources.Limits {
		if _, ok := c.Resources.Requests[name]; !ok {
			if c.Resources.Requests == nil {
				c.Resources.Requests = v1.ResourceList{}
			}
			c.Resources.Requests[name] = q.DeepCopy()
		}
	}
	for i := range c.Env {
		if vf := c.Env[i].ValueFrom; vf != nil && vf.FieldRef != nil {
			def(&vf.FieldRef.APIVersion, "v1")
		}
	}
}

func httpDefaults(g *v1.HTTPGetAction) {
	if g != nil {
		def(&g.Path, "/")
		def(&g.Scheme, v1.URISchemeHTTP)
	}
}
