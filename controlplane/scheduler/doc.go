// Package scheduler gives pods their nodes: it watches unbound pods, filters and scores nodes, and binds.
//
// One goroutine decides, one pod at a time; binding runs beside it, so that a slow write delays nobody else. Goroutines
// that Run starts: the queue's timer, the decision loop, one a binding in flight, the event broadcaster, and the shared
// informers. All have ended when Run returns, but for informers, which end with the context.
//
// Plugins are those of k8s.io/kube-scheduler/framework. The package never lists from the API outside the informers.
package scheduler
