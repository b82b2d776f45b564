// Package admission holds reeve's admission plugins and says in which order they and those of k8s.io/apiserver run.
//
// # Use by the API server
//
// Build options.AdmissionOptions with NewOptions, then ApplyTo with Initializers appended:
//
//	o := admission.NewOptions()
//	o.ApplyTo(genericConfig, informers, client, dynamicClient, features, version,
//		admission.Initializers(admission.Config{...})...)
//
// The informer factory must be started after ApplyTo. Every plugin waits a bounded time for the listers that it needs,
// then refuses the request instead of guessing.
//
// Objects in attributes are the v1 Go types, which are both the hub and the external types here.
//
// The package starts no goroutines of its own; ResourceQuota's workers and the webhooks' are the library's. Plugins
// never write to the cluster, except that ResourceQuota updates quota status.
package admission
