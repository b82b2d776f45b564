package controlplane

import (
	"context"
	"log/slog"
	"os"
	"runtime/debug"
	"sync"
	"time"

	"k8s.io/klog/v2"
)

const (
	// gcPercent trades CPU for memory: the heap is mostly caches that live as long as the process, and collecting it
	// at 1.4 times its live size instead of twice saves a quarter of the process at rest.
	gcPercent = 40
	// memoryLimit is soft: past it the collector works harder instead of letting a burst of lists double the heap.
	memoryLimit = 400 << 20
)

// tuneMemory applies the process's settings unless the user set them in the environment.
func tuneMemory() {
	if os.Getenv("GOGC") == "" {
		debug.SetGCPercent(gcPercent)
	}
	if os.Getenv("GOMEMLIMIT") == "" {
		debug.SetMemoryLimit(memoryLimit)
	}
}

// settle is how long after start the process has done what it does only once: OpenAPI documents, the first lists.
const settle = 15 * time.Second

// returnMemory gives the memory that starting needed back to the system, once. Left alone, the runtime would keep most
// of it for a heap that never grows to that size again.
func returnMemory(ctx context.Context) error {
	select {
	case <-time.After(settle):
		debug.FreeOSMemory()
	case <-ctx.Done():
	}
	<-ctx.Done()
	return nil
}

// klogBridged guards klog's logger, which is the process's and may only be set while nobody logs: the first Run sets it.
var klogBridged sync.Once

// bridgeKlog sends the libraries' logs to logger. What they call Info is detail here.
func bridgeKlog(logger *slog.Logger) {
	klogBridged.Do(func() { klog.SetSlogLogger(slog.New(&quiet{logger.Handler()})) })
}
