package container

import (
	"encoding/json"
	"fmt"
	"slices"
	"strconv"
	"time"

	v1 "k8s.io/api/core/v1"
	kubelettypes "k8s.io/kubelet/pkg/types"

	"github.com/reevehq/reeve/agent/podworker/podspec"
	"github.com/reevehq/reeve/agent/podworker/podstate"
)

// Annotations of containers, upstream's names, so that tools which read them keep working and a node can change hands.
const (
	HashAnnotation                     = "io.kubernetes.container.hash"
	RestartCountAnnotation             = "io.kubernetes.container.restartCount"
	TerminationMessagePathAnnotation   = "io.kubernetes.container.terminationMessagePath"
	TerminationMessagePolicyAnnotation = "io.kubernetes.container.terminationMessagePolicy"
	PodTerminationGraceAnnotation      = "io.kubernetes.pod.terminationGracePeriod"
	PodDeletionGraceAnnotation         = "io.kubernetes.pod.deletionGracePeriod"
	PreStopAnnotation                  = "io.kubernetes.container.preStopHandler"
	PortsAnnotation                    = "io.kubernetes.container.ports"

	// CrashCountAnnotation is ours: restarts in a row, by which back-off grows.
	CrashCountAnnotation = "reeve.dev/crash-count"

	// CreatedWithAnnotation is ours: the resources of a container that must be restarted to be resized.
	CreatedWithAnnotation = "reeve.dev/created-with"

	// ConfigSourceAnnotation says on a pod where it came from: "api" or "file".
	ConfigSourceAnnotation = "kubernetes.io/config.source"
	ConfigHashAnnotation   = "kubernetes.io/config.hash"
	ConfigSeenAnnotation   = "kubernetes.io/config.seen"
	ConfigMirrorAnnotation = v1.MirrorPodAnnotationKey
)

// labels of one container.
func labels(pod *v1.Pod, name string) map[string]string {
	return map[string]string{
		kubelettypes.KubernetesPodNameLabel:       pod.Name,
		kubelettypes.KubernetesPodNamespaceLabel:  pod.Namespace,
		kubelettypes.KubernetesPodUIDLabel:        string(pod.UID),
		kubelettypes.KubernetesContainerNameLabel: name,
	}
}

func annotations(pod *v1.Pod, c *v1.Container, restartCount, crashCount int32) map[string]string {
	m := map[string]string{
		HashAnnotation:                     podspec.Hash(c),
		RestartCountAnnotation:             strconv.Itoa(int(restartCount)),
		CrashCountAnnotation:               strconv.Itoa(int(crashCount)),
		TerminationMessagePathAnnotation:   c.TerminationMessagePath,
		TerminationMessagePolicyAnnotation: string(c.TerminationMessagePolicy),
	}
	if slices.ContainsFunc(c.ResizePolicy, func(p v1.ContainerResizePolicy) bool { return p.RestartPolicy == v1.RestartContainer }) {
		if b, err := json.Marshal(v1.ResourceRequirements{Requests: c.Resources.Requests, Limits: c.Resources.Limits}); err == nil {
			m[CreatedWithAnnotation] = string(b)
		}
	}
	if g := pod.DeletionGracePeriodSeconds; g != nil {
		m[PodDeletionGraceAnnotation] = strconv.FormatInt(*g, 10)
	}
	if g := pod.Spec.TerminationGracePeriodSeconds; g != nil {
		m[PodTerminationGraceAnnotation] = strconv.FormatInt(*g, 10)
	}
	if c.Lifecycle != nil && c.Lifecycle.PreStop != nil {
		if b, err := json.Marshal(c.Lifecycle.PreStop); err == nil {
			m[PreStopAnnotation] = string(b)
		}
	}
	if len(c.Ports) > 0 {
		if b, err := json.Marshal(c.Ports); err == nil {
			m[PortsAnnotation] = string(b)
		}
	}
	return m
}

// FromAnnotations fills what a container's annotations carry into out; what is missing or malformed stays zero.
func FromAnnotations(ann map[string]string, out *podstate.Container) {
	num := func(key string) int64 {
		n, _ := strconv.ParseInt(ann[key], 10, 64)
		return n
	}
	out.Hash = ann[HashAnnotation]
	out.RestartCount = int32(num(RestartCountAnnotation))
	out.CrashCount = int32(num(CrashCountAnnotation))
	out.TerminationMessagePath = ann[TerminationMessagePathAnnotation]
	out.TerminationMessagePolicy = ann[TerminationMessagePolicyAnnotation]
	if s := ann[CreatedWithAnnotation]; s != "" {
		var r v1.ResourceRequirements
		if json.Unmarshal([]byte(s), &r) == nil {
			out.CreatedWith = &r
		}
	}
	out.TerminationGracePeriod = time.Duration(num(PodTerminationGraceAnnotation)) * time.Second
}

// PreStopFromAnnotations returns the preStop handler that a container was created with, nil if none. Orphans, whose pod
// object is gone, are stopped by it.
func PreStopFromAnnotations(ann map[string]string) (*v1.LifecycleHandler, error) {
	s := ann[PreStopAnnotation]
	if s == "" {
		return nil, nil
	}
	var h v1.LifecycleHandler
	if err := json.Unmarshal([]byte(s), &h); err != nil {
		return nil, fmt.Errorf("parse annotation %s: %w", PreStopAnnotation, err)
	}
	return &h, nil
}
