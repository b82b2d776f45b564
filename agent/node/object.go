package node

import (
	"context"
	"maps"
	"slices"
	"sort"
	"time"

	v1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// What status lists of images at most: the largest, with so many names each (upstream's figures).
const (
	maxImages     = 50
	maxImageNames = 5
	// imagesEvery bounds how often images are listed for the status.
	imagesEvery = time.Minute
)

// object returns the Node as it is registered.
func (m *Manager) object(ctx context.Context) *v1.Node {
	labels := map[string]string{
		v1.LabelHostname: m.cfg.Hostname, v1.LabelOSStable: m.cfg.Machine.OS, v1.LabelArchStable: m.cfg.Machine.Arch,
		"beta.kubernetes.io/os": m.cfg.Machine.OS, "beta.kubernetes.io/arch": m.cfg.Machine.Arch,
	}
	maps.Copy(labels, m.cfg.Labels)
	n := &v1.Node{
		ObjectMeta: metav1.ObjectMeta{
			Name: m.cfg.Name, Labels: labels,
			Annotations: map[string]string{"volumes.kubernetes.io/controller-managed-attach-detach": "true"},
		},
		Spec: v1.NodeSpec{ProviderID: m.cfg.ProviderID, Taints: slices.Clone(m.cfg.Taints)},
	}
	n.Status, _ = m.status(ctx, nil, time.Now())
	return n
}

// status returns the node's status now and whether it is ready, given the last one written (nil: none).
func (m *Manager) status(ctx context.Context, old *v1.NodeStatus, now time.Time) (v1.NodeStatus, bool) {
	more := m.extended()
	s := v1.NodeStatus{
		Capacity: with(m.cfg.Capacity, more), Allocatable: with(m.cfg.Allocatable, more),
		DaemonEndpoints: v1.NodeDaemonEndpoints{KubeletEndpoint: v1.DaemonEndpoint{Port: int32(m.cfg.KubeletPort)}},
		NodeInfo: v1.NodeSystemInfo{
			MachineID: m.cfg.Machine.MachineID, SystemUUID: m.cfg.Machine.SystemUUID, BootID: m.cfg.Machine.BootID,
			KernelVersion: m.cfg.Machine.KernelVersion, OSImage: m.cfg.Machine.OSImage, OperatingSystem: m.cfg.Machine.OS,
			Architecture: m.cfg.Machine.Arch, KubeletVersion: m.cfg.Version,
		},
	}
	if m.cfg.Machine.SwapBytes > 0 {
		swap := m.cfg.Machine.SwapBytes
		s.NodeInfo.Swap = &v1.NodeSwapStatus{Capacity: &swap}
	}
	for _, ip := range m.cfg.IPs {
		s.Addresses = append(s.Addresses, v1.NodeAddress{Type: v1.NodeInternalIP, Address: ip.String()})
	}
	s.Addresses = append(s.Addresses, v1.NodeAddress{Type: v1.NodeHostName, Address: m.cfg.Hostname})
	if old != nil {
		// Those belong to others.
		s.VolumesAttached, s.VolumesInUse, s.Config = old.VolumesAttached, old.VolumesInUse, old.Config
	}
	m.mu.Lock()
	s.NodeInfo.ContainerRuntimeVersion = m.runtime
	m.mu.Unlock()

	cctx, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	rt, err := m.cfg.Runtime.Status(cctx, false)
	if err == nil {
		for _, h := range rt.GetRuntimeHandlers() {
			s.RuntimeHandlers = append(s.RuntimeHandlers, v1.NodeRuntimeHandler{
				Name: h.Name, Features: &v1.NodeRuntimeHandlerFeatures{
					RecursiveReadOnlyMounts: flag(h.GetFeatures().GetRecursiveReadOnlyMounts()),
					UserNamespaces:          flag(h.GetFeatures().GetUserNamespaces()),
				},
			})
		}
		sort.Slice(s.RuntimeHandlers, func(i, j int) bool { return s.RuntimeHandlers[i].Name < s.RuntimeHandlers[j].Name })
		if f := rt.GetFeatures(); f != nil {
			s.Features = &v1.NodeFeatures{SupplementalGroupsPolicy: flag(f.SupplementalGroupsPolicy)}
		}
	}
	s.Images = m.imageList(cctx, now)
	var pressure Pressure
	if m.cfg.Pressure != nil {
		pressure = m.cfg.Pressure()
	}
	var other error
	if m.cfg.Healthy != nil {
		other = m.cfg.Healthy()
	}
	conds, ready, network := conditions(rt, err, other, pressure, old, now)
	s.Conditions = conds
	if m.cfg.OnNetwork != nil {
		m.cfg.OnNetwork(network)
	}
	return s, ready
}

func flag(b bool) *bool { return &b }

func (m *Manager) imageList(ctx context.Context, now time.Time) []v1.ContainerImage {
	m.mu.Lock()
	if !m.imagesAt.IsZero() && now.Sub(m.imagesAt) < imagesEvery {
		defer m.mu.Unlock()
		return m.images
	}
	m.mu.Unlock()
	list, err := m.cfg.Runtime.ListImages(ctx, nil)
	if err != nil {
		return nil
	}
	out := summarise(list)
	m.mu.Lock()
	m.images, m.imagesAt = out, now
	m.mu.Unlock()
	return out
}

// summarise lists the largest images.
func summarise(list []*runtimeapi.Image) []v1.ContainerImage {
	var out []v1.ContainerImage
	for _, img := range list {
		names := append(slices.Clone(img.RepoDigests), img.RepoTags...)
		if len(names) > maxImageNames {
			names = names[:maxImageNames]
		}
		out = append(out, v1.ContainerImage{Names: names, SizeBytes: int64(img.Size)})
	}
	sort.SliceStable(out, func(i, j int) bool {
		if out[i].SizeBytes != out[j].SizeBytes {
			return out[i].SizeBytes > out[j].SizeBytes
		}
		return slices.Compare(out[i].Names, out[j].Names) < 0
	})
	if len(out) > maxImages {
		out = out[:maxImages]
	}
	return out
}
