package fake

import (
	"context"
	"fmt"
	"slices"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/reevehq/reeve/cri/match"
)

func (s *sandbox) statusProto() *runtimeapi.PodSandboxStatus {
	st := &runtimeapi.PodSandboxStatus{
		Id: s.id, Metadata: s.config.Metadata, State: s.state, CreatedAt: s.created.UnixNano(),
		Labels: s.config.Labels, Annotations: s.config.Annotations, RuntimeHandler: s.handler,
		Network: &runtimeapi.PodSandboxNetworkStatus{Ip: s.ip},
		Linux: &runtimeapi.LinuxPodSandboxStatus{Namespaces: &runtimeapi.Namespace{
			Options: s.config.GetLinux().GetSecurityContext().GetNamespaceOptions(),
		}},
	}
	return proto.Clone(st).(*runtimeapi.PodSandboxStatus)
}

// RunPodSandbox makes a ready sandbox with an address of 10.88.0.0/16 (none on the host's network). Its name
// (namespace, name, uid, attempt) stays reserved until RemovePodSandbox.
func (r *Runtime) RunPodSandbox(ctx context.Context, config *runtimeapi.PodSandboxConfig, handler string) (string, error) {
	m := config.GetMetadata()
	if m == nil {
		return "", status.Error(codes.InvalidArgument, "sandbox config must include metadata")
	}
	if err := r.begin("RunPodSandbox", m.Namespace+"/"+m.Name); err != nil {
		return "", err
	}
	if err := ctx.Err(); err != nil {
		return "", err
	}
	if handler != "" && handler != "runc" {
		return "", status.Errorf(codes.InvalidArgument, "no runtime for handler %q is configured", handler)
	}
	r.mu.Lock()
	for _, s := range r.sandboxes {
		o := s.config.Metadata
		if o.Namespace == m.Namespace && o.Name == m.Name && o.Uid == m.Uid && o.Attempt == m.Attempt {
			r.mu.Unlock()
			return "", status.Errorf(codes.AlreadyExists, "sandbox %s/%s attempt %d is reserved by %q", m.Namespace, m.Name, m.Attempt, s.id)
		}
	}
	s := &sandbox{
		id: r.newIDLocked(), config: proto.Clone(config).(*runtimeapi.PodSandboxConfig), handler: handler,
		state: runtimeapi.PodSandboxState_SANDBOX_READY, created: time.Now(),
	}
	if config.GetLinux().GetSecurityContext().GetNamespaceOptions().GetNetwork() != runtimeapi.NamespaceMode_NODE {
		r.nextIP++
		s.ip = fmt.Sprintf("10.88.%d.%d", r.nextIP/250, r.nextIP%250+2)
	}
	r.sandboxes[s.id] = s
	evs := []*runtimeapi.ContainerEventResponse{
		r.eventLocked(runtimeapi.ContainerEventType_CONTAINER_CREATED_EVENT, s.id, s.id),
		r.eventLocked(runtimeapi.ContainerEventType_CONTAINER_STARTED_EVENT, s.id, s.id),
	}
	r.mu.Unlock()
	r.publish(evs...)
	return s.id, nil
}

func (r *Runtime) stopSandboxLocked(s *sandbox) []*runtimeapi.ContainerEventResponse {
	var evs []*runtimeapi.ContainerEventResponse
	for _, c := range r.containers {
		if c.sandbox == s.id && c.status.State == runtimeapi.ContainerState_CONTAINER_RUNNING {
			evs = append(evs, r.exitLocked(c, 137, ""))
		}
	}
	if s.state == runtimeapi.PodSandboxState_SANDBOX_READY {
		s.state = runtimeapi.PodSandboxState_SANDBOX_NOTREADY
		evs = append(evs, r.eventLocked(runtimeapi.ContainerEventType_CONTAINER_STOPPED_EVENT, s.id, s.id))
	}
	return evs
}

// StopPodSandbox ends the sandbox's containers and the sandbox. Unknown sandboxes are fine.
func (r *Runtime) StopPodSandbox(_ context.Context, id string) error {
	if err := r.begin("StopPodSandbox", id); err != nil {
		return err
	}
	r.mu.Lock()
	var evs []*runtimeapi.ContainerEventResponse
	if s := r.findSandboxLocked(id); s != nil {
		evs = r.stopSandboxLocked(s)
	}
	r.mu.Unlock()
	r.publish(evs...)
	return nil
}

// RemovePodSandbox stops and forgets the sandbox and its containers. Unknown sandboxes are fine.
func (r *Runtime) RemovePodSandbox(_ context.Context, id string) error {
	if err := r.begin("RemovePodSandbox", id); err != nil {
		return err
	}
	r.mu.Lock()
	var evs []*runtimeapi.ContainerEventResponse
	if s := r.findSandboxLocked(id); s != nil {
		evs = r.stopSandboxLocked(s)
		for cid, c := range r.containers {
			if c.sandbox == s.id {
				delete(r.containers, cid)
				evs = append(evs, r.eventLocked(runtimeapi.ContainerEventType_CONTAINER_DELETED_EVENT, cid, s.id))
			}
		}
		delete(r.sandboxes, s.id)
		ev := r.eventLocked(runtimeapi.ContainerEventType_CONTAINER_DELETED_EVENT, s.id, s.id)
		ev.PodSandboxStatus = s.statusProto()
		evs = append(evs, ev)
	}
	r.mu.Unlock()
	r.publish(evs...)
	return nil
}

// PodSandboxStatus answers with the sandbox and the statuses of its containers.
func (r *Runtime) PodSandboxStatus(_ context.Context, id string, _ bool) (*runtimeapi.PodSandboxStatusResponse, error) {
	if err := r.check("PodSandboxStatus"); err != nil {
		return nil, err
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	s := r.findSandboxLocked(id)
	if s == nil {
		return nil, status.Errorf(codes.NotFound, "sandbox %q not found", id)
	}
	return &runtimeapi.PodSandboxStatusResponse{
		Status: s.statusProto(), ContainersStatuses: r.statusesLocked(s.id), Timestamp: time.Now().UnixNano(),
	}, nil
}

// ListPodSandbox lists the newest first.
func (r *Runtime) ListPodSandbox(_ context.Context, f *runtimeapi.PodSandboxFilter) ([]*runtimeapi.PodSandbox, error) {
	if err := r.check("ListPodSandbox"); err != nil {
		return nil, err
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	var out []*runtimeapi.PodSandbox
	for _, s := range r.sandboxes {
		p := &runtimeapi.PodSandbox{
			Id: s.id, Metadata: s.config.Metadata, State: s.state, CreatedAt: s.created.UnixNano(),
			Labels: s.config.Labels, Annotations: s.config.Annotations, RuntimeHandler: s.handler,
		}
		if match.Sandbox(f, p) {
			out = append(out, proto.Clone(p).(*runtimeapi.PodSandbox))
		}
	}
	slices.SortFunc(out, func(a, b *runtimeapi.PodSandbox) int { return int(b.CreatedAt - a.CreatedAt) })
	return out, nil
}

// PortForward answers with a URL that nothing serves.
func (r *Runtime) PortForward(_ context.Context, req *runtimeapi.PortForwardRequest) (*runtimeapi.PortForwardResponse, error) {
	if err := r.begin("PortForward", req.PodSandboxId); err != nil {
		return nil, err
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.findSandboxLocked(req.PodSandboxId) == nil {
		return nil, status.Errorf(codes.NotFound, "sandbox %q not found", req.PodSandboxId)
	}
	return &runtimeapi.PortForwardResponse{Url: "http://127.0.0.1:0/portforward/fake"}, nil
}

// UpdatePodSandboxResources keeps the resources in the sandbox's config.
func (r *Runtime) UpdatePodSandboxResources(_ context.Context, req *runtimeapi.UpdatePodSandboxResourcesRequest) (*runtimeapi.UpdatePodSandboxResourcesResponse, error) {
	if err := r.begin("UpdatePodSandboxResources", req.PodSandboxId); err != nil {
		return nil, err
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	s := r.findSandboxLocked(req.PodSandboxId)
	if s == nil {
		return nil, status.Errorf(codes.NotFound, "sandbox %q not found", req.PodSandboxId)
	}
	if s.config.Linux == nil {
		s.config.Linux = &runtimeapi.LinuxPodSandboxConfig{}
	}
	s.config.Linux.Resources, s.config.Linux.Overhead = req.Resources, req.Overhead
	return &runtimeapi.UpdatePodSandboxResourcesResponse{}, nil
}

// PodSandboxStats gives fixed figures for a known sandbox.
func (r *Runtime) PodSandboxStats(_ context.Context, id string) (*runtimeapi.PodSandboxStats, error) {
	if err := r.check("PodSandboxStats"); err != nil {
		return nil, err
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	s := r.findSandboxLocked(id)
	if s == nil {
		return nil, status.Errorf(codes.NotFound, "sandbox %q not found", id)
	}
	return r.sandboxStatsLocked(s), nil
}

func (r *Runtime) sandboxStatsLocked(s *sandbox) *runtimeapi.PodSandboxStats {
	now := time.Now().UnixNano()
	st := &runtimeapi.PodSandboxStats{
		Attributes: &runtimeapi.PodSandboxAttributes{Id: s.id, Metadata: s.config.Metadata, Labels: s.config.Labels, Annotations: s.config.Annotations},
		Linux: &runtimeapi.LinuxPodSandboxStats{
			Cpu:     &runtimeapi.CpuUsage{Timestamp: now, UsageCoreNanoSeconds: &runtimeapi.UInt64Value{Value: 2e6}},
			Memory:  &runtimeapi.MemoryUsage{Timestamp: now, WorkingSetBytes: &runtimeapi.UInt64Value{Value: 2 << 20}},
			Process: &runtimeapi.ProcessUsage{Timestamp: now, ProcessCount: &runtimeapi.UInt64Value{Value: 2}},
		},
	}
	for _, c := range r.containers {
		if c.sandbox == s.id && c.status.State == runtimeapi.ContainerState_CONTAINER_RUNNING {
			st.Linux.Containers = append(st.Linux.Containers, c.stats())
		}
	}
	return proto.Clone(st).(*runtimeapi.PodSandboxStats)
}

// ListPodSandboxStats gives the stats of the ready sandboxes that the filter selects.
func (r *Runtime) ListPodSandboxStats(_ context.Context, f *runtimeapi.PodSandboxStatsFilter) ([]*runtimeapi.PodSandboxStats, error) {
	if err := r.check("ListPodSandboxStats"); err != nil {
		return nil, err
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	var out []*runtimeapi.PodSandboxStats
	for _, s := range r.sandboxes {
		if s.state == runtimeapi.PodSandboxState_SANDBOX_READY && match.SandboxStats(f, s.id, s.config.Labels) {
			out = append(out, r.sandboxStatsLocked(s))
		}
	}
	return out, nil
}

// ListMetricDescriptors has none.
func (r *Runtime) ListMetricDescriptors(context.Context) ([]*runtimeapi.MetricDescriptor, error) {
	return nil, r.check("ListMetricDescriptors")
}

// ListPodSandboxMetrics has none.
func (r *Runtime) ListPodSandboxMetrics(context.Context) ([]*runtimeapi.PodSandboxMetrics, error) {
	return nil, r.check("ListPodSandboxMetrics")
}
