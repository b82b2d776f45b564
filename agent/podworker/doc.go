// Package podworker runs pods: one worker, one goroutine, a pod UID, through one-way phases. A worker reads what is
// desired, looks at what is, lets the pure Plan decide, and executes: each action is an operation in a goroutine of its
// own that the worker waits for, so that volumes, image pulls and the sandbox overlap and nothing polls.
//
// The package knows only the small interfaces in edges.go and its own podspec and podstate. It never removes a pod's traces itself except through them,
// and it starts no goroutine that outlives Pool.Run.
package podworker
