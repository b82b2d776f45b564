// Package podconfig says which pods this node should run: those that the API server bound to it and those in the static
// folder. Each source tells its receiver of every pod and of every pod that is gone, and when it has told all it has, so
// that nothing is taken for an orphan before.
//
// Run starts a goroutine a source and waits for them. The package changes nothing anywhere.
package podconfig
