// Package status says how pods are. Generate is pure: what a worker saw becomes a PodStatus. Writer brings it to the API
// server: one write at a time a pod, the newest wins, retried until it is there, and it alone deletes a finished pod's
// object.
//
// Writer.Run starts a fixed number of goroutines and waits for them.
package status
