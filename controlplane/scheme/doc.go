// Package scheme owns the API server's view of Go types and group versions.
//
// The published k8s.io/api v1 types serve both as the external version and as the hub ("__internal") that the
// request machinery and the store work with, so that a conversion between the two is a stamp of the kind and never
// a copy. A kind served at more than one version has one chosen hub: autoscaling/v2 for HorizontalPodAutoscaler,
// core/v1 for Event; the other versions convert to it by hand-written functions.
//
// The package starts no goroutines and never reads the environment.
package scheme
