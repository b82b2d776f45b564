package downward

import (
	"fmt"
	"sort"
	"strconv"
	"strings"

	corev1 "k8s.io/api/core/v1"
)

// Addresses are the parts of a pod's status that the agent knows before the API does. The primary address comes first.
type Addresses struct {
	PodIPs  []string
	HostIPs []string
}

// Field answers a fieldRef path of core/v1: metadata.{name,namespace,uid,labels,annotations}, metadata.labels['key'],
// metadata.annotations['key'], spec.{nodeName,serviceAccountName}, status.{podIP,podIPs,hostIP,hostIPs}. A key that the
// map lacks is an empty value, as in kubelet. An unknown path is an error that names it.
func Field(pod *corev1.Pod, path string, addr Addresses) (string, error) {
	if base, key, ok := subscript(path); ok {
		switch base {
		case "metadata.labels":
			return pod.Labels[key], nil
		case "metadata.annotations":
			return pod.Annotations[key], nil
		}
		return "", fmt.Errorf("fieldPath %q: only metadata.labels and metadata.annotations take a ['key']", path)
	}
	switch path {
	case "metadata.name":
		return pod.Name, nil
	case "metadata.namespace":
		return pod.Namespace, nil
	case "metadata.uid":
		return string(pod.UID), nil
	case "metadata.labels":
		return FormatMap(pod.Labels), nil
	case "metadata.annotations":
		return FormatMap(pod.Annotations), nil
	case "spec.nodeName":
		return pod.Spec.NodeName, nil
	case "spec.serviceAccountName":
		return pod.Spec.ServiceAccountName, nil
	case "status.podIP":
		return first(addr.PodIPs), nil
	case "status.podIPs":
		return strings.Join(addr.PodIPs, ","), nil
	case "status.hostIP":
		return first(addr.HostIPs), nil
	case "status.hostIPs":
		return strings.Join(addr.HostIPs, ","), nil
	}
	return "", fmt.Errorf("fieldPath %q is not supported", path)
}

// FormatMap renders a map as downwardAPI files show it: key="value" a line, sorted by key, values quoted as Go strings.
func FormatMap(m map[string]string) string {
	keys := make([]string, 0, len(m))
	for k := range m {
		keys = append(keys, k)
	}
	sort.Strings(keys)
	lines := make([]string, len(keys))
	for i, k := range keys {
		lines[i] = k + "=" + strconv.Quote(m[k])
	}
	return strings.Join(lines, "\n")
}

// subscript splits base['key'].
func subscript(path string) (base, key string, ok bool) {
	base, rest, ok := strings.Cut(path, "['")
	if !ok || !strings.HasSuffix(rest, "']") {
		return "", "", false
	}
	return base, strings.TrimSuffix(rest, "']"), true
}

func first(s []string) string {
	if len(s) == 0 {
		return ""
	}
	return s[0]
}
