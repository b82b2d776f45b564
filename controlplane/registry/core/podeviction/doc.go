// Package podeviction serves pods/eviction: a delete that asks the pod's PodDisruptionBudget first.
//
// No goroutine is started. It never deletes a pod whose budget it could not spend, and never spends without trying the
// delete; a spent disruption whose delete fails is given back by the disruption controller, which lets
// status.disruptedPods expire.
package podeviction
