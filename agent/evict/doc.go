// Package evict keeps the node from running out of memory, disk and processes: it watches what is left, says so in the
// node's conditions, takes away what nobody uses first, and only then ends pods, one at a time and in kubelet's order. It
// also ends pods that outgrow their own storage limits. Plan and Rank are pure; Run is one goroutine.
package evict
