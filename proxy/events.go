package proxy

import (
	"context"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/kubernetes/scheme"
	typedv1 "k8s.io/client-go/kubernetes/typed/core/v1"
	"k8s.io/client-go/tools/record"

	"github.com/reevehq/reeve/proxy/plan"
)

// events tells users what is wrong, with kubectl describe of the node or Service. They are all that the proxy writes to the
// API.
type events struct {
	recorder record.EventRecorder
	nodeName string
	stop     func()
}

func newEvents(cfg Config) *events {
	b := record.NewBroadcaster(record.WithContext(context.Background()))
	b.StartRecordingToSink(&typedv1.EventSinkImpl{Interface: cfg.Client.CoreV1().Events("")})
	return &events{
		recorder: b.NewRecorder(scheme.Scheme, corev1.EventSource{Component: "kube-proxy", Host: cfg.NodeName}),
		nodeName: cfg.NodeName, stop: b.Shutdown,
	}
}

// node warns on the node.
func (e *events) node(reason, message string) {
	ref := &corev1.ObjectReference{Kind: "Node", APIVersion: "v1", Name: e.nodeName, UID: types.UID(e.nodeName)}
	e.recorder.Event(ref, corev1.EventTypeWarning, reason, message)
}

// service warns on a Service.
func (e *events) service(name plan.Name, reason, message string) {
	ref := &corev1.ObjectReference{Kind: "Service", APIVersion: "v1", Namespace: name.Namespace, Name: name.Name}
	e.recorder.Event(ref, corev1.EventTypeWarning, reason, message)
}
