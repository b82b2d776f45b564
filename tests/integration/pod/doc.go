// Package pod tests the special endpoints of pods through the real API server: log, exec, port-forward and proxy to a
// node's agent that the test plays, and eviction against disruption budgets.
package pod
