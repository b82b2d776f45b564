package native

import (
	"encoding/json"
	"time"

	"github.com/containerd/containerd/v2/core/containers"
	"github.com/containerd/typeurl/v2"
	specs "github.com/opencontainers/runtime-spec/specs-go"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/reevehq/reeve/cri/native/spec"
)

// respec puts new limits into a recorded spec; its device rules stay.
func respec(c containers.Container, h *spec.Host, res *runtimeapi.LinuxContainerResources) (typeurl.Any, error) {
	var s specs.Spec
	if err := json.Unmarshal(c.Spec.GetValue(), &s); err != nil {
		return nil, err
	}
	limits := h.Resources(res)
	if s.Linux.Resources != nil {
		limits.Devices = s.Linux.Resources.Devices
	}
	s.Linux.Resources = limits
	score := h.OOMScoreAdj(res.GetOomScoreAdj())
	s.Process.OOMScoreAdj = &score
	return typeurl.MarshalAny(&s)
}

func nanos(t time.Time) int64 {
	if t.IsZero() {
		return 0
	}
	return t.UnixNano()
}
