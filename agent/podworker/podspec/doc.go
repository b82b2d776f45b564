// Package podspec reads a pod's spec: which container is which, of what kind, and what may not change while it runs. Pure;
// it starts nothing.
package podspec
