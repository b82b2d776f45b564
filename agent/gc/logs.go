package gc

import (
	"compress/gzip"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"sort"
	"strings"
	"time"

	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/reevehq/reeve/internal/logkey"
)

// stamp is the suffix of a rotated log, as upstream's.
const stamp = "20060102-150405"

// logs rotates the logs of running containers that have grown too big.
func (c *Collector) logs(ctx context.Context, now time.Time) {
	if c.cfg.LogMaxBytes <= 0 {
		return
	}
	big := c.big()
	if len(big) == 0 {
		return
	}
	ctx, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	list, err := c.cfg.Runtime.ListContainers(ctx, &runtimeapi.ContainerFilter{
		State: &runtimeapi.ContainerStateValue{State: runtimeapi.ContainerState_CONTAINER_RUNNING}})
	if err != nil {
		return
	}
	for _, x := range list {
		st, err := c.cfg.Runtime.ContainerStatus(ctx, x.Id, false)
		if err != nil {
			continue
		}
		path := st.GetStatus().GetLogPath()
		if !big[path] {
			continue
		}
		if err := c.rotate(ctx, x.Id, path, now); err != nil {
			c.log.Warn("Failed to rotate container log", logkey.ContainerID, x.Id, logkey.Path, path, logkey.Err, err)
		}
	}
}

// big finds the current logs over the limit by their size alone, without asking the runtime.
func (c *Collector) big() map[string]bool {
	out := map[string]bool{}
	paths, _ := filepath.Glob(filepath.Join(c.cfg.PodLogsDir, "*", "*", "*.log"))
	for _, p := range paths {
		if st, err := os.Lstat(p); err == nil && st.Mode().IsRegular() && st.Size() >= c.cfg.LogMaxBytes {
			out[p] = true
		}
	}
	return out
}

// rotate moves the log aside, has the runtime open a new one, compresses all older ones but the newest, which a reader may
// still follow, and removes what is beyond the number of files.
func (c *Collector) rotate(ctx context.Context, id, path string, now time.Time) error {
	aside := path + "." + now.Format(stamp)
	if err := os.Rename(path, aside); err != nil {
		return fmt.Errorf("move log aside: %w", err)
	}
	if err := c.cfg.Runtime.ReopenContainerLog(ctx, id); err != nil {
		// The container still writes to the old file: it must keep its name.
		return errors.Join(fmt.Errorf("reopen log: %w", err), os.Rename(aside, path))
	}
	old, err := filepath.Glob(path + ".*")
	if err != nil {
		return err
	}
	sort.Strings(old)
	var keep []string
	for _, p := range old {
		if strings.HasSuffix(p, ".tmp") {
			_ = os.Remove(p)
			continue
		}
		keep = append(keep, p)
	}
	// The current log is one of the files, the one just moved aside another.
	for len(keep) > max(c.cfg.LogMaxFiles-1, 1) {
		if err := os.Remove(keep[0]); err != nil {
			return fmt.Errorf("remove old log: %w", err)
		}
		keep = keep[1:]
	}
	for _, p := range keep[:len(keep)-1] {
		if !strings.HasSuffix(p, ".gz") {
			if err := compress(p); err != nil {
				return err
			}
		}
	}
	return nil
}

func compress(path string) (err error) {
	in, err := os.Open(path)
	if err != nil {
		return fmt.Errorf("compress log: %w", err)
	}
	defer in.Close()
	tmp := path + ".tmp"
	out, err := os.OpenFile(tmp, os.O_CREATE|os.O_TRUNC|os.O_WRONLY, 0o640)
	if err != nil {
		return fmt.Errorf("compress log: %w", err)
	}
	z := gzip.NewWriter(out)
	_, err = io.Copy(z, in)
	if err = errors.Join(err, z.Close(), out.Close()); err == nil {
		if err = os.Rename(tmp, path+".gz"); err == nil {
			err = os.Remove(path)
		}
	}
	if err != nil {
		_ = os.Remove(tmp)
		return fmt.Errorf("compress log %s: %w", path, err)
	}
	return nil
}
