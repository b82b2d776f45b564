package container

import (
	"fmt"
	"path/filepath"
	"strconv"

	v1 "k8s.io/api/core/v1"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/reevehq/reeve/internal/expansion"
)

// Node is what configurations need to know of the machine.
type Node struct {
	RootDir             string // the kubelet's, for Localhost seccomp profiles
	PodLogsDir          string
	MemoryCapacityBytes int64
	CgroupV2            bool
	SeccompDefault      bool
	ClusterDomain       string
}

// Input is everything from which one container's configuration is made.
type Input struct {
	Pod          *v1.Pod
	Container    *v1.Container
	Node         Node
	RestartCount int32
	CrashCount   int32
	// ImageRef is what the runtime is to run (an image ID or digest); ImageUser what that image says of its user.
	ImageRef  string
	ImageUser ImageUser
	// Env is complete and expanded; command and args are expanded with it here.
	Env []*runtimeapi.KeyValue
	// Mounts are the volumes', the hosts file's and the termination log's, already resolved.
	Mounts  []*runtimeapi.Mount
	Devices []*runtimeapi.Device
	// TargetID is the container whose PID namespace an ephemeral container joins.
	TargetID string
}

// LogDirectory is /var/log/pods/<namespace>_<name>_<uid>.
func LogDirectory(podLogsDir string, pod *v1.Pod) string {
	uid := string(pod.UID)
	return filepath.Join(podLogsDir, pod.Namespace+"_"+pod.Name+"_"+uid)
}

// LogPath is <container>/<restart count>.log below LogDirectory.
func LogPath(name string, restartCount int32) string {
	return filepath.Join(name, strconv.Itoa(int(restartCount))+".log")
}

// Config returns the CRI configuration of one container. It fails only for a reason that the user must mend
// (CreateContainerConfigError).
func Config(in Input) (*runtimeapi.ContainerConfig, error) {
	c := in.Container
	sec, err := security(in.Pod, c, in.ImageUser, in.TargetID, in.Node)
	if err != nil {
		return nil, err
	}
	vars := make(map[string]string, len(in.Env))
	for _, kv := range in.Env {
		vars[kv.Key] = string(kv.Value)
	}
	lookup := func(name string) (string, bool) {
		v, ok := vars[name]
		return v, ok
	}
	expand := func(list []string) []string {
		var out []string
		for _, s := range list {
			out = append(out, expansion.Expand(s, lookup))
		}
		return out
	}
	ann := annotations(in.Pod, c, in.RestartCount, in.CrashCount)
	cfg := &runtimeapi.ContainerConfig{
		Metadata:    &runtimeapi.ContainerMetadata{Name: c.Name, Attempt: uint32(in.RestartCount)},
		Image:       &runtimeapi.ImageSpec{Image: in.ImageRef, UserSpecifiedImage: c.Image},
		Command:     expand(c.Command),
		Args:        expand(c.Args),
		WorkingDir:  c.WorkingDir,
		Envs:        in.Env,
		Mounts:      in.Mounts,
		Devices:     in.Devices,
		Labels:      labels(in.Pod, c.Name),
		Annotations: ann,
		LogPath:     LogPath(c.Name, in.RestartCount),
		Stdin:       c.Stdin,
		StdinOnce:   c.StdinOnce,
		Tty:         c.TTY,
		Linux: &runtimeapi.LinuxContainerConfig{
			SecurityContext: sec,
			Resources:       Resources(in.Pod, c, in.Node.MemoryCapacityBytes, in.Node.CgroupV2),
		},
	}
	if c.Lifecycle != nil && c.Lifecycle.StopSignal != nil {
		n, ok := runtimeapi.Signal_value[string(*c.Lifecycle.StopSignal)]
		if !ok {
			return nil, fmt.Errorf("lifecycle.stopSignal: unknown signal %q", *c.Lifecycle.StopSignal)
		}
		cfg.StopSignal = runtimeapi.Signal(n)
	}
	return cfg, nil
}
