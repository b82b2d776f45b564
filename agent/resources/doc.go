// Package resources owns the node's pod cgroups: kubepods, its QoS classes and one cgroup a pod, under cgroup v1 and v2,
// named as the cgroupfs or the systemd driver names them; and it computes what the node can give.
//
// It writes plain files: a cgroup is a folder, and on a machine without systemd that is all there is. Under the systemd
// driver the slices are made by path as well, with Delegate left to the service's own slice. It starts no goroutine.
package resources
