package agent

import (
	"context"
	"fmt"

	v1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/kubernetes/scheme"
	typedv1 "k8s.io/client-go/kubernetes/typed/core/v1"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/record"

	"github.com/reevehq/reeve/agent/podworker/podspec"
)

// Events are worth less than pods: they have a client of their own, so that a burst of them never queues before a status
// (upstream's eventRecordQPS and eventBurst are 50 and 100).
const (
	eventQPS   = 20
	eventBurst = 20
)

// events records what users see with kubectl describe. The zero recorder (standalone) records nothing.
type events struct {
	recorder record.EventRecorder
	stop     func()
}

func newEvents(cfg *Config) (*events, error) {
	e := &events{stop: func() {}}
	if cfg.Client == nil {
		return e, nil
	}
	client := cfg.Client
	if cfg.RESTConfig != nil {
		rc := rest.CopyConfig(cfg.RESTConfig)
		rc.QPS, rc.Burst, rc.RateLimiter = eventQPS, eventBurst, nil
		c, err := kubernetes.NewForConfig(rc)
		if err != nil {
			return nil, fmt.Errorf("make client for events: %w", err)
		}
		client = c
	}
	b := record.NewBroadcaster(record.WithContext(context.Background()))
	b.StartRecordingToSink(&typedv1.EventSinkImpl{Interface: client.CoreV1().Events("")})
	e.recorder = b.NewRecorder(scheme.Scheme, v1.EventSource{Component: "kubelet", Host: cfg.NodeName})
	e.stop = b.Shutdown
	return e, nil
}

// pod records an event about a pod, or one of its containers.
func (e *events) pod(pod *v1.Pod, name, kind, reason, msg string) {
	if e.recorder == nil || pod.Name == "" {
		return
	}
	ref := &v1.ObjectReference{
		Kind: "Pod", APIVersion: "v1", Namespace: pod.Namespace, Name: pod.Name, UID: pod.UID, ResourceVersion: pod.ResourceVersion,
		FieldPath: fieldPath(pod, name),
	}
	e.recorder.Event(ref, kind, reason, msg)
}

func fieldPath(pod *v1.Pod, name string) string {
	switch _, kind := podspec.Find(&pod.Spec, name); kind {
	case podspec.KindInit, podspec.KindSidecar:
		return "spec.initContainers{" + name + "}"
	case podspec.KindApp:
		return "spec.containers{" + name + "}"
	case podspec.KindEphemeral:
		return "spec.ephemeralContainers{" + name + "}"
	}
	return ""
}

// node records an event about this node.
func (e *events) node(name, kind, reason, msg string) {
	if e.recorder == nil {
		return
	}
	// Node events carry the name as UID, as kubectl describe node asks for them.
	e.recorder.Event(&v1.ObjectReference{Kind: "Node", APIVersion: "v1", Name: name, UID: types.UID(name)}, kind, reason, msg)
}
