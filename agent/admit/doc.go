// Package admit decides whether this node takes a pod, after the scheduler, with what only the node knows for certain.
// It is pure and starts nothing.
package admit
