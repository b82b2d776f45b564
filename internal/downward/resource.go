package downward

import (
	"fmt"
	"strconv"
	"strings"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
)

// Resource answers a resourceFieldRef: the limit or request of container c, in units of divisor, rounded up. A limit of
// cpu, memory or ephemeral-storage that is not set reads as the node's allocatable amount; a request that is not set
// reads as 0. A zero divisor is 1.
func Resource(c *corev1.Container, res string, divisor resource.Quantity, allocatable corev1.ResourceList) (string, error) {
	if divisor.IsZero() {
		divisor = resource.MustParse("1")
	}
	side, name, ok := strings.Cut(res, ".")
	if !ok {
		return "", fmt.Errorf("resource %q is not supported; use limits.<name> or requests.<name>", res)
	}
	rn := corev1.ResourceName(name)
	switch rn {
	case corev1.ResourceCPU, corev1.ResourceMemory, corev1.ResourceEphemeralStorage:
	default:
		if !strings.HasPrefix(name, corev1.ResourceHugePagesPrefix) {
			return "", fmt.Errorf("resource %q is not supported", res)
		}
	}
	var q resource.Quantity
	switch side {
	case "limits":
		q, ok = c.Resources.Limits[rn]
		if (!ok || q.IsZero()) && !strings.HasPrefix(name, corev1.ResourceHugePagesPrefix) {
			q = allocatable[rn]
		}
	case "requests":
		q = c.Resources.Requests[rn]
	default:
		return "", fmt.Errorf("resource %q is not supported; use limits.<name> or requests.<name>", res)
	}
	if rn == corev1.ResourceCPU {
		// Milli units on both sides, so that a divisor of 1m works.
		return ceilDiv(q.MilliValue(), divisor.MilliValue()), nil
	}
	return ceilDiv(q.Value(), divisor.Value()), nil
}

func ceilDiv(a, b int64) string {
	if b <= 0 {
		b = 1
	}
	n := a / b
	if a%b > 0 {
		n++
	}
	return strconv.FormatInt(n, 10)
}

// Container finds an app or init container by name; resourceFieldRef.containerName says which.
func Container(pod *corev1.Pod, name string) (*corev1.Container, error) {
	for i := range pod.Spec.Containers {
		if pod.Spec.Containers[i].Name == name {
			return &pod.Spec.Containers[i], nil
		}
	}
	for i := range pod.Spec.InitContainers {
		if pod.Spec.InitContainers[i].Name == name {
			return &pod.Spec.InitContainers[i], nil
		}
	}
	return nil, fmt.Errorf("container %q not found in pod %q", name, pod.Name)
}
