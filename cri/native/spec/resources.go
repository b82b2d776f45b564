package spec

import (
	specs "github.com/opencontainers/runtime-spec/specs-go"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// Resources renders CRI resources. Zero values set nothing, as in CRI; a negative quota or memory limit lifts the limit.
func (h *Host) Resources(r *runtimeapi.LinuxContainerResources) *specs.LinuxResources {
	out := &specs.LinuxResources{}
	if r == nil {
		return out
	}
	cpu := &specs.LinuxCPU{Cpus: r.CpusetCpus, Mems: r.CpusetMems}
	if r.CpuPeriod != 0 {
		v := uint64(r.CpuPeriod)
		cpu.Period = &v
	}
	if r.CpuQuota != 0 {
		v := r.CpuQuota
		cpu.Quota = &v
	}
	if r.CpuShares != 0 {
		v := uint64(r.CpuShares)
		cpu.Shares = &v
	}
	if *cpu != (specs.LinuxCPU{}) {
		out.CPU = cpu
	}
	if r.MemoryLimitInBytes != 0 {
		limit := r.MemoryLimitInBytes
		out.Memory = &specs.LinuxMemory{Limit: &limit}
		if h.Swap {
			// Memory and swap together. Without a wish of its own a container gets no swap, as the kubelet's default is.
			swap := limit
			if r.MemorySwapLimitInBytes != 0 {
				swap = r.MemorySwapLimitInBytes
			}
			out.Memory.Swap = &swap
		}
	}
	if h.Hugetlb {
		for _, p := range r.HugepageLimits {
			out.HugepageLimits = append(out.HugepageLimits, specs.LinuxHugepageLimit{Pagesize: p.PageSize, Limit: p.Limit})
		}
	}
	if h.CgroupV2 && len(r.Unified) > 0 {
		out.Unified = r.Unified
	}
	return out
}

// OOMScoreAdj clamps a wish to what the host lets the runtime set and to the kernel's range.
func (h *Host) OOMScoreAdj(wish int64) int {
	return int(min(max(wish, int64(h.MinOOMScoreAdj), -1000), 1000))
}

// Merge lays the set fields of update over old, for the record of a container whose limits were changed in place.
func Merge(old, update *runtimeapi.LinuxContainerResources) *runtimeapi.LinuxContainerResources {
	out := &runtimeapi.LinuxContainerResources{}
	for _, r := range []*runtimeapi.LinuxContainerResources{old, update} {
		if r == nil {
			continue
		}
		set(&out.CpuPeriod, r.CpuPeriod)
		set(&out.CpuQuota, r.CpuQuota)
		set(&out.CpuShares, r.CpuShares)
		set(&out.MemoryLimitInBytes, r.MemoryLimitInBytes)
		set(&out.OomScoreAdj, r.OomScoreAdj)
		set(&out.CpusetCpus, r.CpusetCpus)
		set(&out.CpusetMems, r.CpusetMems)
		set(&out.MemorySwapLimitInBytes, r.MemorySwapLimitInBytes)
		if len(r.HugepageLimits) > 0 {
			out.HugepageLimits = r.HugepageLimits
		}
		for k, v := range r.Unified {
			if out.Unified == nil {
				out.Unified = map[string]string{}
			}
			out.Unified[k] = v
		}
	}
	return out
}

func set[T comparable](dst *T, v T) {
	var zero T
	if v != zero {
		*dst = v
	}
}
