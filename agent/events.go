package agent

import (
	"context"
	"fmt"
	"log/slog"

	v1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/kubernetes/scheme"
	typedv1 "k8s.io/client-go/kubernetes/typed/core/v1"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/record"

	"github.com/reevehq/reeve/agent/podworker/podspec"
	"github.com/reevehq/reeve/internal/logkey"
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
		c, err := kubernetes.NewForConfig(eventClient(cfg))
		if err != nil {
			return nil, fmt.Errorf("make client for events: %w", err)
		}
		client = c
	}
	b := record.NewBroadcaster(record.WithContext(context.Background()))
	b.StartRecordingToSink(eventSink{EventSink: &typedv1.EventSinkImpl{Interface: client.CoreV1().Events("")}, log: cfg.Logger})
	e.recorder = b.NewRecorder(scheme.Scheme, v1.EventSource{Component: "kubelet", Host: cfg.NodeName})
	e.stop = b.Shutdown
	return e, nil
}

// eventClient is the agent's way to the API server with a rate of its own: events are worth less than pods, and a burst of
// them never queues before a status.
func eventClient(cfg *Config) *rest.Config {
	rc := rest.CopyConfig(cfg.RESTConfig)
	rc.QPS, rc.Burst, rc.RateLimiter = float32(cfg.EventRecordQPS), cfg.EventBurst, nil
	return rc
}

// eventSink takes a namespace that is gone, or going, for the end of its events: what a pod's last moments had to say there
// is of no use to anybody, and no error.
type eventSink struct {
	record.EventSink
	log *slog.Logger
}

func (s eventSink) Create(e *v1.Event) (*v1.Event, error) {
	out, err := s.EventSink.Create(e)
	if err != nil && namespaceGone(err) {
		s.log.Debug("Dropped event of a namespace that is gone", "namespace", e.Namespace, "reason", e.Reason, logkey.Err, err)
		return e, nil
	}
	return out, err
}

func namespaceGone(err error) bool {
	if apierrors.HasStatusCause(err, v1.NamespaceTerminatingCause) {
		return true
	}
	status, ok := err.(apierrors.APIStatus)
	return ok && apierrors.IsNotFound(err) && status.Status().Details != nil && status.Status().Details.Kind == "namespaces"
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
