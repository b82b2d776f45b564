// Package registry turns the descriptor table into storage: one generic store a kind with strategies driven by its
// descriptor, the status and scale subresources, and the few kinds that need code of their own (pods, namespaces,
// certificate signing requests, services).
//
// Strategies never change the old object of an update: it may be shared with the watch cache. The package starts no
// goroutines of its own; the stores' watch caches start theirs and end with Store.Destroy.
package registry
