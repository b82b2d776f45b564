// Package state is the scheduler's picture of the cluster: nodes, the pods bound or assumed on them, and what they use.
//
// Cache is written by watch events and by the scheduling loop (assumed pods); Snapshot is a consistent copy that one
// scheduling cycle reads without locks. The package starts no goroutine, reads no clock and never talks to the API.
package state
