// Package evict keeps the node from running out of memory, disk and processes: it watches what is left, says so in the
// node's conditions, takes away what nobody uses first, and only then ends pods, one at a time, in kubelet's order, and
// not the next one before the last is gone. It also ends pods that outgrow their own storage limits.
//
// Parse, track and Rank are pure; Run is one goroutine. It never ends a static, mirror or system-critical pod.
package evict
