// Package cgroup finds the host's cgroup hierarchies (v1, v2, or v1 with an empty v2 beside it), names a container's
// folders in them, reads usage from them on demand, and puts reeve's own helpers into a cgroup of their own. It never
// mounts anything, never writes a limit, starts nothing and keeps no cache but the mount points.
package cgroup
