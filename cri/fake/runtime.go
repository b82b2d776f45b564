package fake

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"strings"
	"sync"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/reevehq/reeve/cri"
	"github.com/reevehq/reeve/cri/match"
)

var _ cri.Runtime = (*Runtime)(nil)

// ExecFunc answers an ExecSync. A non-zero code becomes the error of a CRI client for that exit code.
type ExecFunc func(ctx context.Context, containerID string, cmd []string) (stdout, stderr []byte, code int, err error)

// Runtime is an in-memory cri.Runtime. The zero value is not usable; use New.
type Runtime struct {
	mu         sync.Mutex
	seq        int
	sandboxes  map[string]*sandbox
	containers map[string]*container
	images     map[string]*runtimeapi.Image // by ID
	pullable   map[string]*runtimeapi.Image // by reference
	fail       map[string]error
	calls      []string
	subs       map[chan *runtimeapi.ContainerEventResponse]context.Context
	exec       ExecFunc
	onStart    func(containerID string)
	conditions []*runtimeapi.RuntimeCondition
	nextIP     int
	podCIDR    string
}

type sandbox struct {
	id      string
	config  *runtimeapi.PodSandboxConfig
	handler string
	state   runtimeapi.PodSandboxState
	created time.Time
	ip      string
}

type container struct {
	id      string
	sandbox string
	config  *runtimeapi.ContainerConfig
	status  *runtimeapi.ContainerStatus
}

// New returns an empty, ready runtime that can "pull" any reference (see SetPullable to restrict that) and that already
// holds the given images.
func New(images ...string) *Runtime {
	r := &Runtime{
		sandboxes:  map[string]*sandbox{},
		containers: map[string]*container{},
		images:     map[string]*runtimeapi.Image{},
		fail:       map[string]error{},
		subs:       map[chan *runtimeapi.ContainerEventResponse]context.Context{},
		conditions: []*runtimeapi.RuntimeCondition{
			{Type: runtimeapi.RuntimeReady, Status: true},
			{Type: runtimeapi.NetworkReady, Status: true},
		},
	}
	for _, ref := range images {
		r.SetImage(NewImage(ref))
	}
	return r
}

// NewImage returns an image named ref with an ID and digest derived from the name.
func NewImage(ref string) *runtimeapi.Image {
	id := fmt.Sprintf("sha256:%064x", hash(ref))
	repo := ref
	if i := strings.LastIndex(ref, ":"); i > strings.LastIndex(ref, "/") {
		repo = ref[:i]
	}
	return &runtimeapi.Image{
		Id: id, RepoTags: []string{ref}, RepoDigests: []string{repo + "@" + id}, Size: 1 << 20,
		Spec: &runtimeapi.ImageSpec{Image: id},
	}
}

func hash(s string) uint64 {
	h := uint64(14695981039346656037)
	for i := range len(s) {
		h = (h ^ uint64(s[i])) * 1099511628211
	}
	return h
}

// SetImage puts an image on the node, as if it had been pulled.
func (r *Runtime) SetImage(img *runtimeapi.Image) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.images[img.Id] = proto.Clone(img).(*runtimeapi.Image)
}

// SetPullable restricts PullImage to these references; everything else answers NotFound.
func (r *Runtime) SetPullable(refs ...string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.pullable = map[string]*runtimeapi.Image{}
	for _, ref := range refs {
		r.pullable[ref] = NewImage(ref)
	}
}

// SetCondition sets a RuntimeReady or NetworkReady condition of Status.
func (r *Runtime) SetCondition(c *runtimeapi.RuntimeCondition) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for i, old := range r.conditions {
		if old.Type == c.Type {
			r.conditions[i] = c
			return
		}
	}
	r.conditions = append(r.conditions, c)
}

// FailOn makes every later call of the named method ("RunPodSandbox") return err; a nil err heals it.
func (r *Runtime) FailOn(method string, err error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if err == nil {
		delete(r.fail, method)
		return
	}
	r.fail[method] = err
}

// OnExec sets what ExecSync answers; nil restores the default, empty output and exit code 0.
func (r *Runtime) OnExec(f ExecFunc) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.exec = f
}

// OnStart is called, without locks held, after each successful StartContainer. A test may call Exit from it.
func (r *Runtime) OnStart(f func(containerID string)) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.onStart = f
}

// Calls returns what was asked so far, "Method id-or-name" each, and forgets it. Reads (List*, *Status, *Stats) are not
// recorded.
func (r *Runtime) Calls() []string {
	r.mu.Lock()
	defer r.mu.Unlock()
	out := r.calls
	r.calls = nil
	return out
}

// Subscribers returns how many GetContainerEvents calls are following.
func (r *Runtime) Subscribers() int {
	r.mu.Lock()
	defer r.mu.Unlock()
	return len(r.subs)
}

// PodCIDR returns the last pod CIDR set through UpdateRuntimeConfig.
func (r *Runtime) PodCIDR() string {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.podCIDR
}

// Exit ends a running container with the given code and tells the subscribers. It panics on an unknown container,
// because then the test is wrong.
func (r *Runtime) Exit(containerID string, code int32) { r.exit(containerID, code, "") }

// OOMKill ends a running container as the kernel's OOM killer does: code 137, reason "OOMKilled".
func (r *Runtime) OOMKill(containerID string) { r.exit(containerID, 137, "OOMKilled") }

func (r *Runtime) exit(containerID string, code int32, reason string) {
	r.mu.Lock()
	c, ok := r.containers[containerID]
	if !ok {
		r.mu.Unlock()
		panic(fmt.Sprintf("fake: no container %q", containerID))
	}
	ev := r.exitLocked(c, code, reason)
	r.mu.Unlock()
	r.publish(ev)
}

// KillSandbox makes a sandbox's pause process disappear: the sandbox is NotReady and its containers have exited.
func (r *Runtime) KillSandbox(id string) {
	r.mu.Lock()
	var evs []*runtimeapi.ContainerEventResponse
	if s, ok := r.sandboxes[id]; ok {
		evs = r.stopSandboxLocked(s)
	}
	r.mu.Unlock()
	r.publish(evs...)
}

// ContainerID returns the newest container of that name in a pod, or "".
func (r *Runtime) ContainerID(podUID, name string) string {
	r.mu.Lock()
	defer r.mu.Unlock()
	best := (*container)(nil)
	for _, c := range r.containers {
		s := r.sandboxes[c.sandbox]
		if s == nil || s.config.Metadata.Uid != podUID || c.config.Metadata.Name != name {
			continue
		}
		if best == nil || c.config.Metadata.Attempt > best.config.Metadata.Attempt || c.status.CreatedAt > best.status.CreatedAt {
			best = c
		}
	}
	if best == nil {
		return ""
	}
	return best.id
}

// begin records a mutating call and returns the failure set for it.
func (r *Runtime) begin(method, what string) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.calls = append(r.calls, method+" "+what)
	return r.fail[method]
}

// check returns the failure set for a read.
func (r *Runtime) check(method string) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.fail[method]
}

func (r *Runtime) newIDLocked() string {
	r.seq++
	return fmt.Sprintf("%064x", r.seq)
}

func (r *Runtime) findSandboxLocked(id string) *sandbox {
	if s, ok := r.sandboxes[id]; ok || id == "" {
		return s
	}
	for k, s := range r.sandboxes {
		if match.ID(id, k) {
			return s
		}
	}
	return nil
}

func (r *Runtime) findContainerLocked(id string) (*container, error) {
	if c, ok := r.containers[id]; ok {
		return c, nil
	}
	for k, c := range r.containers {
		if id != "" && match.ID(id, k) {
			return c, nil
		}
	}
	return nil, status.Errorf(codes.NotFound, "container %q not found", id)
}

func (r *Runtime) publish(evs ...*runtimeapi.ContainerEventResponse) {
	r.mu.Lock()
	subs := maps.Clone(r.subs)
	r.mu.Unlock()
	for _, ev := range evs {
		if ev == nil {
			continue
		}
		for ch, ctx := range subs {
			select {
			case ch <- ev:
			case <-ctx.Done():
			}
		}
	}
}

func (r *Runtime) eventLocked(t runtimeapi.ContainerEventType, containerID, sandboxID string) *runtimeapi.ContainerEventResponse {
	ev := &runtimeapi.ContainerEventResponse{ContainerId: containerID, ContainerEventType: t, CreatedAt: time.Now().UnixNano()}
	if s := r.sandboxes[sandboxID]; s != nil {
		ev.PodSandboxStatus = s.statusProto()
	}
	ev.ContainersStatuses = r.statusesLocked(sandboxID)
	return ev
}

func (r *Runtime) statusesLocked(sandboxID string) []*runtimeapi.ContainerStatus {
	var out []*runtimeapi.ContainerStatus
	for _, c := range r.containers {
		if c.sandbox == sandboxID {
			out = append(out, proto.Clone(c.status).(*runtimeapi.ContainerStatus))
		}
	}
	slices.SortFunc(out, func(a, b *runtimeapi.ContainerStatus) int { return strings.Compare(a.Id, b.Id) })
	return out
}

// GetContainerEvents sends every later change to ch until ctx ends, and then returns ctx's error.
func (r *Runtime) GetContainerEvents(ctx context.Context, ch chan *runtimeapi.ContainerEventResponse, established func(runtimeapi.RuntimeService_GetContainerEventsClient)) error {
	if err := r.check("GetContainerEvents"); err != nil {
		return err
	}
	r.mu.Lock()
	r.subs[ch] = ctx
	r.mu.Unlock()
	if established != nil {
		established(nil)
	}
	<-ctx.Done()
	r.mu.Lock()
	delete(r.subs, ch)
	r.mu.Unlock()
	return ctx.Err()
}

// Version names the fake; the API version is v1.
func (r *Runtime) Version(context.Context, string) (*runtimeapi.VersionResponse, error) {
	if err := r.check("Version"); err != nil {
		return nil, err
	}
	return &runtimeapi.VersionResponse{Version: "0.1.0", RuntimeName: "fake", RuntimeVersion: "1.0.0", RuntimeApiVersion: "v1"}, nil
}

// UpdateRuntimeConfig keeps the pod CIDR; see PodCIDR.
func (r *Runtime) UpdateRuntimeConfig(_ context.Context, c *runtimeapi.RuntimeConfig) error {
	if err := r.begin("UpdateRuntimeConfig", c.GetNetworkConfig().GetPodCidr()); err != nil {
		return err
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	r.podCIDR = c.GetNetworkConfig().GetPodCidr()
	return nil
}

// Status reports the conditions set by SetCondition; both are true at first.
func (r *Runtime) Status(context.Context, bool) (*runtimeapi.StatusResponse, error) {
	if err := r.check("Status"); err != nil {
		return nil, err
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	st := &runtimeapi.RuntimeStatus{}
	for _, c := range r.conditions {
		st.Conditions = append(st.Conditions, proto.Clone(c).(*runtimeapi.RuntimeCondition))
	}
	return &runtimeapi.StatusResponse{Status: st, RuntimeHandlers: []*runtimeapi.RuntimeHandler{
		{Name: "", Features: &runtimeapi.RuntimeHandlerFeatures{}},
		{Name: "runc", Features: &runtimeapi.RuntimeHandlerFeatures{}},
	}, Features: &runtimeapi.RuntimeFeatures{SupplementalGroupsPolicy: true}}, nil
}

// RuntimeConfig says cgroupfs.
func (r *Runtime) RuntimeConfig(context.Context) (*runtimeapi.RuntimeConfigResponse, error) {
	if err := r.check("RuntimeConfig"); err != nil {
		return nil, err
	}
	return &runtimeapi.RuntimeConfigResponse{Linux: &runtimeapi.LinuxRuntimeConfiguration{
		CgroupDriver: runtimeapi.CgroupDriver_CGROUPFS,
	}}, nil
}

// Close does nothing.
func (r *Runtime) Close(context.Context) error { return nil }
