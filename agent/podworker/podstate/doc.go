// Package podstate holds what is observed of a pod in the runtime: its sandboxes and containers as plain values that
// planners and the status generator read. It does no I/O and starts nothing.
package podstate
