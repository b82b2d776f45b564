// Package authz says what a caller may do.
//
// It owns the RBAC authorizer and rule resolver, the Node authorizer, and the bootstrap policy (the roles and bindings
// that every cluster starts with) with the reconciler that writes it.
//
// Goroutines: none of its own; it reads informers that others start. Reconcile works in the caller's goroutine and
// waits for the few workers that it starts.
//
// It never authenticates, and the authorizers never read or write the API: only informers' stores.
package authz
