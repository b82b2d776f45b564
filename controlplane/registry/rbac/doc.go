// Package rbac keeps RBAC from being its own way around: nobody may write a role with rights that he does not have, or
// bind a role that holds more than he does, unless he has the verb escalate or bind.
//
// It wraps the registry's stores of roles and bindings; no goroutine is started, and nothing is ever written by itself.
package rbac
