package native

import (
	"context"
	"encoding/json"
	"os/exec"
	"slices"
	"sync"

	"github.com/opencontainers/runtime-spec/specs-go/features"
	"golang.org/x/sys/unix"
)

// featureSet asks the OCI runtimes what they can do, once each.
type featureSet struct {
	mu   sync.Mutex
	seen map[string]features.Features // by program
}

// features of a handler's OCI runtime; empty for shims that are no runc's and for programs too old to tell. The program is
// looked up in our PATH, as containerd's shim does in its own.
func (r *Runtime) features(ctx context.Context, handler string) features.Features {
	h := r.cfg.Handlers[handler]
	if h.Type != runcType {
		return features.Features{}
	}
	program := h.Binary
	if program == "" {
		program = "runc"
	}
	r.oci.mu.Lock()
	defer r.oci.mu.Unlock()
	if f, ok := r.oci.seen[program]; ok {
		return f
	}
	ctx, cancel := context.WithTimeout(ctx, statusTimeout)
	defer cancel()
	var f features.Features
	if out, err := exec.CommandContext(ctx, program, "features").Output(); err != nil || json.Unmarshal(out, &f) != nil {
		f = features.Features{}
	}
	if ctx.Err() != nil {
		return f // ask again
	}
	if r.oci.seen == nil {
		r.oci.seen = map[string]features.Features{}
	}
	r.oci.seen[program] = f
	return f
}

// recursiveReadOnly says whether kernel (mount_setattr, 5.12) and runtime (runc 1.1) can do it.
func (r *Runtime) recursiveReadOnly(ctx context.Context, handler string) bool {
	return unix.MountSetattr(-1, "", 0, &unix.MountAttr{}) != unix.ENOSYS && slices.Contains(r.features(ctx, handler).MountOptions, "rro")
}
