// Package auth tests authentication and authorization of the real API server on a real etcd, in one process on
// loopback: nodes, bound tokens, bootstrap tokens, access reviews, RBAC and its escalation guard.
package auth
