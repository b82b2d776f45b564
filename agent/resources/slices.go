package resources

import (
	"context"
	"path"
	"time"

	"github.com/reevehq/reeve/systemd"
)

// slicer is systemd's part under the systemd driver. A slice that systemd does not know would lose its limits when systemd
// next looks at the tree, and one that it does know stays listed until it is stopped.
type slicer interface {
	Set(ctx context.Context, s systemd.Slice) error
	Stop(ctx context.Context, name string) error
}

// managed answers systemd's part, or nil where folders are all there is: under the cgroupfs driver, without systemd, with
// pods below another cgroup than the top, which no slice's name can say, and on cgroup v1, where systemd does not undo
// what the files were given.
func managed(cfg Config, v2 bool) slicer {
	if cfg.Driver != "systemd" || path.Clean("/"+cfg.Root) != "/" || !v2 || !systemd.Running() {
		return nil
	}
	return &systemd.Slices{}
}

// make makes the cgroup with these limits, or changes those of one that is there.
func (m *Manager) make(at string, l limits) error {
	if m.slices != nil {
		s := systemd.Slice{
			Name: path.Base(at), Description: "pods of reeve", CPUQuota: time.Duration(l.quotaUS), MemoryMax: l.memoryBytes, TasksMax: l.pids,
		}
		if l.shares > 0 {
			s.CPUWeight = Weight(l.shares)
		}
		if l.quotaUS > 0 { // per 100 ms
			s.CPUQuota = time.Duration(l.quotaUS) * 10 * time.Microsecond
		}
		if err := m.slices.Set(context.Background(), s); err != nil {
			return err
		}
		// systemd has written them; what is left is to hand down the controllers that it does not, such as hugetlb.
		l = limits{}
	}
	return m.tree.make(at, l)
}

// remove removes the cgroup with everything below.
func (m *Manager) remove(at string) error {
	if m.slices != nil {
		if err := m.slices.Stop(context.Background(), path.Base(at)); err != nil {
			return err
		}
	}
	return m.tree.remove(at)
}
