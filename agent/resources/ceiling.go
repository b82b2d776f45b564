package resources

import (
	"path"

	"github.com/reevehq/reeve/internal/cgroup"
)

// Ceiling is the tightest memory limit above the node's pods: of the cgroup under which they lie or one around it. A node
// inside a container, or in a slice of its own, has that much memory and no more, whatever the machine has.
type Ceiling struct {
	// Cgroup is the one with the limit, "" when there is none below the machine itself.
	Cgroup     string
	LimitBytes int64
}

// FindCeiling looks from root upwards. It knows nothing of cgroups that the kernel hides from this process.
func FindCeiling(h *cgroup.Host, root string) Ceiling {
	var c Ceiling
	for p := path.Clean("/" + root); ; p = path.Dir(p) {
		if l := h.Read(p).MemoryLimit; l != nil && *l > 0 && (c.Cgroup == "" || int64(*l) < c.LimitBytes) {
			c = Ceiling{Cgroup: p, LimitBytes: int64(*l)}
		}
		if p == "/" {
			return c
		}
	}
}

// LeftIn is how much memory is left in a limited cgroup: its limit less its working set. ok is false where the cgroup
// has no limit or does not tell.
func LeftIn(h *cgroup.Host, cg string) (left, limit int64, u cgroup.Usage, ok bool) {
	u = h.Read(cg)
	if u.MemoryLimit == nil || u.MemoryWorkingSet == nil {
		return 0, 0, u, false
	}
	limit = int64(*u.MemoryLimit)
	return max(limit-int64(*u.MemoryWorkingSet), 0), limit, u, true
}
