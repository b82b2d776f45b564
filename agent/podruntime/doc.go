// Package podruntime carries out what pod workers plan: it turns one action into calls of the container runtime, with
// cgroups, folders, environment, mounts and hooks around it, and records the Events that users know. It decides nothing
// and starts no goroutine; every call it makes has a deadline.
package podruntime
