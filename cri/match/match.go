package match

import (
	"strings"

	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// Labels reports whether have carries every key and value of want. An empty want matches everything.
func Labels(want, have map[string]string) bool {
	for k, v := range want {
		if got, ok := have[k]; !ok || got != v {
			return false
		}
	}
	return true
}

// ID reports whether id is want or starts with it. An empty want matches everything.
func ID(want, id string) bool { return strings.HasPrefix(id, want) }

// Sandbox reports whether f selects s. A nil filter selects everything.
func Sandbox(f *runtimeapi.PodSandboxFilter, s *runtimeapi.PodSandbox) bool {
	if f == nil {
		return true
	}
	return ID(f.Id, s.Id) &&
		(f.State == nil || f.State.State == s.State) &&
		Labels(f.LabelSelector, s.Labels)
}

// Container reports whether f selects c. A nil filter selects everything.
func Container(f *runtimeapi.ContainerFilter, c *runtimeapi.Container) bool {
	if f == nil {
		return true
	}
	return ID(f.Id, c.Id) &&
		ID(f.PodSandboxId, c.PodSandboxId) &&
		(f.State == nil || f.State.State == c.State) &&
		Labels(f.LabelSelector, c.Labels)
}

// ContainerStats reports whether f selects the container with these identifiers and labels. A nil filter selects
// everything.
func ContainerStats(f *runtimeapi.ContainerStatsFilter, containerID, sandboxID string, labels map[string]string) bool {
	return f == nil || ID(f.Id, containerID) && ID(f.PodSandboxId, sandboxID) && Labels(f.LabelSelector, labels)
}

// SandboxStats reports whether f selects the sandbox with this ID and these labels. A nil filter selects everything.
func SandboxStats(f *runtimeapi.PodSandboxStatsFilter, id string, labels map[string]string) bool {
	return f == nil || ID(f.Id, id) && Labels(f.LabelSelector, labels)
}
