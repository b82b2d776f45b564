package stats

import (
	"context"
	"fmt"
	"time"

	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
	kubelettypes "k8s.io/kubelet/pkg/types"
)

// runtimeTimeout bounds what one look asks of the runtime.
const runtimeTimeout = 10 * time.Second

// world is one look: which pods run, and where their cgroups are.
type world struct {
	pods []podWorld
}

type podWorld struct {
	name, namespace, uid string
	cgroup               string
	started              time.Time
	sandboxID            string
	sandboxCgroup        string
	hostNetwork          bool
	containers           []containerWorld
}

type containerWorld struct {
	id, name, image string
	cgroup          string
	started         time.Time
}

// look asks the runtime for names and the kernel for cgroups. What has no cgroup does not run, and is left out.
func (p *Provider) look(ctx context.Context) (world, error) {
	ctx, cancel := context.WithTimeout(ctx, runtimeTimeout)
	defer cancel()
	sandboxes, err := p.cfg.Runtime.ListPodSandbox(ctx, &runtimeapi.PodSandboxFilter{
		State: &runtimeapi.PodSandboxStateValue{State: runtimeapi.PodSandboxState_SANDBOX_READY}})
	if err != nil {
		return world{}, fmt.Errorf("list pod sandboxes: %w", err)
	}
	containers, err := p.cfg.Runtime.ListContainers(ctx, &runtimeapi.ContainerFilter{
		State: &runtimeapi.ContainerStateValue{State: runtimeapi.ContainerState_CONTAINER_RUNNING}})
	if err != nil {
		return world{}, fmt.Errorf("list containers: %w", err)
	}
	groups, err := p.cgroups.podCgroups(p.cfg.CgroupRoot)
	if err != nil {
		return world{}, err
	}
	bySandbox := map[string][]*runtimeapi.Container{}
	for _, c := range containers {
		bySandbox[c.PodSandboxId] = append(bySandbox[c.PodSandboxId], c)
	}
	var w world
	for _, s := range sandboxes {
		m := s.GetMetadata()
		if m == nil {
			continue
		}
		g, ok := groups[m.Uid]
		if !ok {
			continue
		}
		pw := podWorld{name: m.Name, namespace: m.Namespace, uid: m.Uid, cgroup: g.path, started: time.Unix(0, s.CreatedAt), sandboxID: s.Id, sandboxCgroup: g.containers[s.Id]}
		for _, c := range bySandbox[s.Id] {
			cg, ok := g.containers[c.Id]
			if !ok {
				continue
			}
			name := c.Labels[kubelettypes.KubernetesContainerNameLabel]
			if name == "" {
				name = c.GetMetadata().GetName()
			}
			pw.containers = append(pw.containers, containerWorld{id: c.Id, name: name, image: c.GetImage().GetImage(), cgroup: cg, started: time.Unix(0, c.CreatedAt)})
		}
		w.pods = append(w.pods, pw)
	}
	return w, nil
}
