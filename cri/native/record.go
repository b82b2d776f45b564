package native

import (
	"crypto/rand"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/containerd/containerd/v2/core/containers"
	"github.com/containerd/typeurl/v2"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/anypb"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// Labels and extension names of our containerd records.
const (
	labelKind     = "reeve.kind" // kindSandbox or kindContainer
	labelSandbox  = "reeve.sandbox"
	kindSandbox   = "sandbox"
	kindContainer = "container"
	kindOrphan    = "orphan" // a task's without one, to delete it
	extRecord     = "reeve.record"
	recordType    = "github.com/reevehq/reeve/cri/record+json"
	// labelSnapshot marks our snapshots with their container; labelRoot keeps containerd's collector off them until a
	// container record refers to them.
	labelSnapshot = "reeve.container"
	labelRoot     = "containerd.io/gc.root"
)

// recordVersion is the format of the records below; a reader refuses newer ones and must read the one before.
const recordVersion = 1

// sandboxRecord is what a sandbox is, written once when it is made.
type sandboxRecord struct {
	Version int                                     `json:"version"`
	Config  protoJSON[*runtimeapi.PodSandboxConfig] `json:"config"`
	Handler string                                  `json:"handler"`
	NetNS   string                                  `json:"netns,omitempty"`
	Shm     string                                  `json:"shm,omitempty"`
	Cgroup  string                                  `json:"cgroup"`
	Made    time.Time                               `json:"made"`
	// Pinned says that mounts hold the namespaces, so that pause may come later.
	Pinned bool `json:"pinned,omitempty"`
	// OOMKills is what its cgroup had counted before: of an earlier sandbox of the same pod.
	OOMKills uint64 `json:"oomKills,omitempty"`
}

// containerRecord is what a container is. Resources in Config change with UpdateContainerResources.
type containerRecord struct {
	Version    int                                    `json:"version"`
	Config     protoJSON[*runtimeapi.ContainerConfig] `json:"config"`
	SandboxID  string                                 `json:"sandboxID"`
	ImageID    string                                 `json:"imageID"`
	ImageRef   string                                 `json:"imageRef"`
	LogPath    string                                 `json:"logPath,omitempty"`
	Cgroup     string                                 `json:"cgroup"`
	StopSignal string                                 `json:"stopSignal,omitempty"`
	UID        int64                                  `json:"uid"`
	GID        int64                                  `json:"gid"`
	Groups     []int64                                `json:"groups,omitempty"`
	Made       time.Time                              `json:"made"`
}

// networkRecord is what became of a sandbox: its presence says that it was made completely.
type networkRecord struct {
	Version int      `json:"version"`
	IPs     []string `json:"ips,omitempty"`
	Raw     []byte   `json:"raw,omitempty"`
	PID     uint32   `json:"pid,omitempty"` // of pause, for when its shim does not answer; 0 while it has not been started
	// Boot is the kernel's boot ID at that time; pinned namespaces do not outlive it.
	Boot string `json:"boot,omitempty"`
}

// startRecord says that a container's task was started.
type startRecord struct {
	Version int       `json:"version"`
	PID     uint32    `json:"pid"`
	At      time.Time `json:"at"`
}

// exitRecord is how a container ended.
type exitRecord struct {
	Version int       `json:"version"`
	Code    int32     `json:"code"`
	Reason  string    `json:"reason"`
	Message string    `json:"message,omitempty"`
	Started time.Time `json:"started"`
	At      time.Time `json:"at"`
	// PodOOMKills is how many kills for memory the pod's ended containers account for, this one included; see outOfMemory.
	PodOOMKills uint64 `json:"podOOMKills,omitempty"`
}

// Reasons of an exit, as containerd's CRI names them and users know them from `kubectl get pods`.
const (
	reasonCompleted  = "Completed"
	reasonError      = "Error"
	reasonOOM        = "OOMKilled"
	reasonStartError = "StartError"
	reasonUnknown    = "Unknown"
	codeStartError   = 128
	codeUnknown      = 255
)

// protoJSON stores a CRI message in its binary form, whose compatibility rules CRI keeps.
type protoJSON[T proto.Message] struct{ M T }

func (p protoJSON[T]) MarshalJSON() ([]byte, error) {
	b, err := proto.Marshal(p.M)
	if err != nil {
		return nil, err
	}
	return json.Marshal(b)
}

func (p *protoJSON[T]) UnmarshalJSON(data []byte) error {
	var b []byte
	if err := json.Unmarshal(data, &b); err != nil {
		return err
	}
	var zero T
	m := zero.ProtoReflect().New().Interface().(T)
	if err := proto.Unmarshal(b, m); err != nil {
		return err
	}
	p.M = m
	return nil
}

func encodeRecord(v any) (map[string]typeurl.Any, error) {
	b, err := json.Marshal(v)
	if err != nil {
		return nil, err
	}
	return map[string]typeurl.Any{extRecord: &anypb.Any{TypeUrl: recordType, Value: b}}, nil
}

func decodeRecord(c containers.Container, v any, version *int) error {
	ext, ok := c.Extensions[extRecord]
	if !ok {
		return errors.New("it has no record")
	}
	if err := json.Unmarshal(ext.GetValue(), v); err != nil {
		return err
	}
	if *version > recordVersion {
		return fmt.Errorf("its record has version %d, this reeve knows %d", *version, recordVersion)
	}
	return nil
}

func newID() string {
	var b [32]byte
	rand.Read(b[:]) // never fails
	return hex.EncodeToString(b[:])
}

func sandboxName(m *runtimeapi.PodSandboxMetadata) string {
	return fmt.Sprintf("pod/%s/%s/%s/%d", m.Namespace, m.Name, m.Uid, m.Attempt)
}

func containerName(sandboxID string, m *runtimeapi.ContainerMetadata) string {
	return fmt.Sprintf("container/%s/%s/%d", sandboxID, m.Name, m.Attempt)
}

func (r *Runtime) sandboxDir(id string) string { return filepath.Join(r.cfg.StateDir, "sandboxes", id) }
func (r *Runtime) containerDir(id string) string {
	return filepath.Join(r.cfg.StateDir, "containers", id)
}

// writeAtomic replaces a file. Without sync it survives the death of any process, which is what most of our files are
// for: after a reboot nothing that they describe runs any more.
func writeAtomic(path string, data []byte, sync bool) error {
	f, err := os.OpenFile(path+".new", os.O_CREATE|os.O_WRONLY|os.O_TRUNC, 0o600)
	if err != nil {
		return err
	}
	_, err = f.Write(data)
	if err == nil && sync {
		err = f.Sync()
	}
	if cerr := f.Close(); err == nil {
		err = cerr
	}
	if err != nil {
		return err
	}
	return os.Rename(path+".new", path)
}

func writeJSON(path string, v any, sync bool) error {
	b, err := json.Marshal(v)
	if err != nil {
		return err
	}
	return writeAtomic(path, b, sync)
}

// readJSON returns false when the file is missing, or cut short by a power loss.
func readJSON(path string, v any) (bool, error) {
	b, err := os.ReadFile(path)
	if errors.Is(err, os.ErrNotExist) {
		return false, nil
	}
	if err != nil {
		return false, err
	}
	if len(b) == 0 || json.Unmarshal(b, v) != nil {
		return false, nil
	}
	return true, nil
}

// logPathOf joins the sandbox's log directory and the container's log path, which must stay inside.
func logPathOf(dir, p string) (string, error) {
	if p == "" || dir == "" {
		return "", nil
	}
	full := filepath.Join(dir, p)
	if full != filepath.Clean(dir) && !strings.HasPrefix(full, strings.TrimSuffix(filepath.Clean(dir), "/")+"/") {
		return "", fmt.Errorf("log path %q leaves the pod's log directory %q", p, dir)
	}
	return full, nil
}
