// Package stats measures the node, its pods and their containers: processor, memory, disk, network, processes. It reads
// cgroups and /proc through cAdvisor's readers, on demand only: it starts no goroutine, keeps no history beyond the last
// processor reading of each cgroup (to make rates), and changes nothing.
package stats
