package podstream

import (
	"context"
	"fmt"
	"net/url"
	"strings"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/types"

	"github.com/reevehq/reeve/controlplane/kubeletclient"
)

// PodGetter finds the pod of the request's namespace: the registry's store for pods.
type PodGetter interface {
	Get(ctx context.Context, name string, options *metav1.GetOptions) (runtime.Object, error)
}

// Nodes finds the agent of a node: a *kubeletclient.Client.
type Nodes interface {
	Connection(ctx context.Context, node types.NodeName) (*kubeletclient.Connection, error)
}

func getPod(ctx context.Context, pods PodGetter, name string) (*corev1.Pod, error) {
	obj, err := pods.Get(ctx, name, &metav1.GetOptions{})
	if err != nil {
		return nil, err
	}
	pod, ok := obj.(*corev1.Pod)
	if !ok {
		return nil, fmt.Errorf("look up pod %q: got a %T", name, obj)
	}
	return pod, nil
}

// containerOf checks the container that the caller names, or picks the only one.
func containerOf(pod *corev1.Pod, name string) (string, error) {
	var apps, inits, ephemeral []string
	for i := range pod.Spec.Containers {
		apps = append(apps, pod.Spec.Containers[i].Name)
	}
	for i := range pod.Spec.InitContainers {
		inits = append(inits, pod.Spec.InitContainers[i].Name)
	}
	for i := range pod.Spec.EphemeralContainers {
		ephemeral = append(ephemeral, pod.Spec.EphemeralContainers[i].Name)
	}
	if name == "" {
		switch len(apps) {
		case 1:
			return apps[0], nil
		case 0:
			return "", apierrors.NewBadRequest(fmt.Sprintf("a container name must be specified for pod %s", pod.Name))
		}
		message := fmt.Sprintf("a container name must be specified for pod %s, choose one of: [%s]", pod.Name, strings.Join(apps, " "))
		if len(inits) > 0 {
			message += fmt.Sprintf(" or one of the init containers: [%s]", strings.Join(inits, " "))
		}
		if len(ephemeral) > 0 {
			message += fmt.Sprintf(" or one of the ephemeral containers: [%s]", strings.Join(ephemeral, " "))
		}
		return "", apierrors.NewBadRequest(message)
	}
	for _, list := range [][]string{apps, inits, ephemeral} {
		for _, n := range list {
			if n == name {
				return name, nil
			}
		}
	}
	return "", apierrors.NewBadRequest(fmt.Sprintf("container %s is not valid for pod %s", name, pod.Name))
}

// onNode finds the agent of the pod's node for a stream that needs the pod to be running.
func onNode(ctx context.Context, nodes Nodes, pod *corev1.Pod) (*kubeletclient.Connection, error) {
	if pod.Spec.NodeName == "" {
		return nil, apierrors.NewBadRequest(fmt.Sprintf("pod %s does not have a host assigned", pod.Name))
	}
	c, err := nodes.Connection(ctx, types.NodeName(pod.Spec.NodeName))
	if err != nil {
		return nil, fmt.Errorf("reach node %q of pod %q: %w", pod.Spec.NodeName, pod.Namespace+"/"+pod.Name, err)
	}
	return c, nil
}

func notFinished(pod *corev1.Pod) error {
	if pod.Status.Phase == corev1.PodSucceeded || pod.Status.Phase == corev1.PodFailed {
		return apierrors.NewBadRequest(fmt.Sprintf("cannot exec in or attach to a container in a completed pod; current phase is %s", pod.Status.Phase))
	}
	return nil
}

// streams are the parameters by which kubelet's exec and attach are told which streams to open.
func streams(stdin, stdout, stderr, tty bool) url.Values {
	q := url.Values{}
	for name, on := range map[string]bool{"input": stdin, "output": stdout, "error": stderr, "tty": tty} {
		if on {
			q.Set(name, "1")
		}
	}
	return q
}

func path(kind string, pod *corev1.Pod, rest ...string) string {
	return "/" + strings.Join(append([]string{kind, pod.Namespace, pod.Name}, rest...), "/")
}
