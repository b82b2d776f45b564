// Package pleg watches the runtime and says which pods to look at again (the pod lifecycle event generator), and takes
// that look. Events of the runtime drive it; a slow relist is the safety net, and becomes a fast one only while the
// runtime gives no events. Each look has a deadline of its own, so that one hung shim never delays another pod nor makes
// the node unhealthy.
//
// Run starts two goroutines (events, relist) and waits for both. The package changes nothing in the runtime.
package pleg
