// Package resources owns the node's pod cgroups: kubepods, its QoS classes and one cgroup a pod, under cgroup v1 and v2,
// named as the cgroupfs or the systemd driver names them; and it computes what the node can give.
//
// It writes plain files: a cgroup is a folder, and on a machine without systemd that is all there is. Under the systemd
// driver on cgroup v2 each cgroup is also a slice of systemd's, made, limited and stopped through it. It starts no
// goroutine, but the connection to systemd has two of its library's.
package resources
