// Package plugins holds the scheduler's own plugins, one file each, on the interfaces of k8s.io/kube-scheduler/framework.
//
// They read the cycle's snapshot and shared informers. Only preemption, volume binding and the binder write to the API,
// each call with a deadline. The package starts no goroutine.
package plugins
