// Package history keeps the ControllerRevisions of DaemonSets and StatefulSets: one for each pod template that was rolled out.
// It starts no goroutine; every request has a deadline. It writes ControllerRevisions of the owner given and nothing else.
package history
