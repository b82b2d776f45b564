package resource

import (
	resourcev1 "k8s.io/api/resource/v1"

	"github.com/reevehq/reeve/controlplane/apis/defaults/fill"
)

// SetDefaults_ExactDeviceRequest fills the allocation: exactly one device.
func SetDefaults_ExactDeviceRequest(r *resourcev1.ExactDeviceRequest) {
	fill.Zero(&r.AllocationMode, resourcev1.DeviceAllocationModeExactCount)
	if r.AllocationMode == resourcev1.DeviceAllocationModeExactCount {
		fill.Zero(&r.Count, 1)
	}
}

// SetDefaults_DeviceSubRequest fills the allocation: exactly one device.
func SetDefaults_DeviceSubRequest(r *resourcev1.DeviceSubRequest) {
	fill.Zero(&r.AllocationMode, resourcev1.DeviceAllocationModeExactCount)
	if r.AllocationMode == resourcev1.DeviceAllocationModeExactCount {
		fill.Zero(&r.Count, 1)
	}
}
