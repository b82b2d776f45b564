package plugins

import (
	"context"
	"fmt"
	"time"

	v1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/kube-scheduler/framework"
)

// callTimeout bounds one write to the API: longer than the API server's own 1 s-scale stalls, short enough that a hung
// connection is noticed within a pod's patience.
const callTimeout = 15 * time.Second

// Binder writes the decision: POST pods/binding.
type Binder struct{ Handle framework.Handle }

func (Binder) Name() string { return NameDefaultBinder }

func (b Binder) Bind(ctx context.Context, _ framework.CycleState, pod *v1.Pod, node string) *framework.Status {
	ctx, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	err := b.Handle.ClientSet().CoreV1().Pods(pod.Namespace).Bind(ctx, &v1.Binding{
		ObjectMeta: metav1.ObjectMeta{Namespace: pod.Namespace, Name: pod.Name, UID: pod.UID},
		Target:     v1.ObjectReference{Kind: "Node", Name: node},
	}, metav1.CreateOptions{})
	if err != nil {
		return framework.AsStatus(fmt.Errorf("bind pod %q to node %q: %w", pod.Namespace+"/"+pod.Name, node, err))
	}
	return nil
}
