// Package deployment rolls ReplicaSets over from one pod template to the next.
//
// plan_*.go is arithmetic and status as pure functions; the rest carries it out. One loop; writes ReplicaSets and the
// Deployment's status and revision, never pods.
package deployment
