package container

import (
	v1 "k8s.io/api/core/v1"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// The kernel's figures for CPU time, as every container runtime uses them.
const (
	MinShares     = 2
	MaxShares     = 262144
	sharesPerCPU  = 1024
	QuotaPeriodUS = 100_000
	minQuotaUS    = 1000
)

// SharesOf turns thousandths of a CPU into cpu.shares.
func SharesOf(milliCPU int64) int64 {
	if milliCPU == 0 {
		return MinShares
	}
	return min(max(milliCPU*sharesPerCPU/1000, MinShares), MaxShares)
}

// QuotaOf turns thousandths of a CPU into microseconds per QuotaPeriodUS; 0 (no limit) stays 0.
func QuotaOf(milliCPU int64) int64 {
	if milliCPU == 0 {
		return 0
	}
	return max(milliCPU*QuotaPeriodUS/1000, minQuotaUS)
}

// Resources returns the cgroup settings of one container. cgroupV2 adds what only exists there: the whole container dies
// on an OOM, and it does not swap.
func Resources(pod *v1.Pod, c *v1.Container, memoryCapacityBytes int64, cgroupV2 bool) *runtimeapi.LinuxContainerResources {
	req, lim := c.Resources.Requests, c.Resources.Limits
	milli := quantity(req, v1.ResourceCPU).MilliValue()
	if _, ok := req[v1.ResourceCPU]; !ok {
		milli = quantity(lim, v1.ResourceCPU).MilliValue()
	}
	r := &runtimeapi.LinuxContainerResources{
		CpuShares:          SharesOf(milli),
		CpuPeriod:          QuotaPeriodUS,
		CpuQuota:           QuotaOf(quantity(lim, v1.ResourceCPU).MilliValue()),
		MemoryLimitInBytes: memoryOf(lim),
		OomScoreAdj:        OOMScoreAdj(pod, c, memoryCapacityBytes),
	}
	if cgroupV2 {
		r.Unified = map[string]string{"memory.oom.group": "1"}
		r.MemorySwapLimitInBytes = r.MemoryLimitInBytes
	}
	return r
}
