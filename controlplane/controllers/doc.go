// Package controllers runs Kubernetes' controllers in one process: each is a package below this one, made anew with back-off
// if it ever ends early.
//
// Run starts, for each controller, one goroutine that keeps it running, and the controller's own; besides them the shared
// informers and the event broadcaster. Informers are started only for kinds that a running controller asked for, and keep
// objects without managedFields. The package itself writes nothing to the API.
package controllers
