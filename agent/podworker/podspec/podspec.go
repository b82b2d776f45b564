package podspec

import (
	"encoding/json"
	"hash/fnv"
	"strconv"

	v1 "k8s.io/api/core/v1"
)

// Kind says which list of the pod's spec a container is in.
type Kind int

const (
	KindNone Kind = iota
	KindInit
	KindSidecar // an init container with restartPolicy Always
	KindApp
	KindEphemeral
)

func (k Kind) String() string {
	return [...]string{"none", "init_container", "init_container", "container", "ephemeral_container"}[k]
}

// IsSidecar tells a restartable init container.
func IsSidecar(c *v1.Container) bool {
	return c.RestartPolicy != nil && *c.RestartPolicy == v1.ContainerRestartPolicyAlways
}

// Find returns the container called name and its kind, or nil and KindNone. For an ephemeral container the result is a
// copy of its common fields.
func Find(spec *v1.PodSpec, name string) (*v1.Container, Kind) {
	for i := range spec.InitContainers {
		if c := &spec.InitContainers[i]; c.Name == name {
			if IsSidecar(c) {
				return c, KindSidecar
			}
			return c, KindInit
		}
	}
	for i := range spec.Containers {
		if c := &spec.Containers[i]; c.Name == name {
			return c, KindApp
		}
	}
	for i := range spec.EphemeralContainers {
		if e := &spec.EphemeralContainers[i]; e.Name == name {
			c := v1.Container(e.EphemeralContainerCommon)
			return &c, KindEphemeral
		}
	}
	return nil, KindNone
}

// Hash identifies what may not change in a running container: its name and image.
func Hash(c *v1.Container) string {
	h := fnv.New32a()
	b, _ := json.Marshal([2]string{c.Name, c.Image})
	_, _ = h.Write(b)
	return strconv.FormatUint(uint64(h.Sum32()), 16)
}
