// Package probes asks containers whether they started, live and are ready: the startup, liveness and readiness probes of
// core/v1, over http, tcp, grpc and exec.
//
// It owns the probe workers (one goroutine a probe of a running container, asleep between probes), the thresholds, and
// the results, keyed by container ID so that they can outlive the process (Checkpoint, Restore).
//
// The caller tells it what runs with SetPod and RemovePod, and hears of every changed result through Config.OnResult. It
// never restarts anything, never reads the API, never touches a container other than by probing it, and knows nothing of
// the runtime beyond Config.Exec.
package probes
