// Package podctl makes and removes pods for workload controllers and says what state a pod is in. It starts no goroutine;
// every request has a deadline.
package podctl
