package stats

import (
	"fmt"
	"path/filepath"
	"strconv"
	"sync"
	"time"

	cafs "github.com/google/cadvisor/fs"
	"golang.org/x/sys/unix"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	statsapi "k8s.io/kubelet/pkg/apis/stats/v1alpha1"
)

// A walk over a folder is good for duShare times as long as it took, within duMin and duMax (kubelet's volume stats
// period): small folders are measured often enough that limits on them hold, big ones take no more than 1/duShare of a
// core.
const (
	duMin   = 5 * time.Second
	duMax   = time.Minute
	duShare = 500
)

func duTTL(took time.Duration) time.Duration { return min(max(took*duShare, duMin), duMax) }

// diskUsage walks folders to sum up what they hold, and remembers for a while.
type diskUsage struct {
	mu   *sync.Mutex
	seen map[string]duEntry
}

type duEntry struct {
	usage cafs.UsageInfo
	at    time.Time
	good  time.Duration
}

func newDiskUsage() diskUsage { return diskUsage{mu: &sync.Mutex{}, seen: map[string]duEntry{}} }

func (d diskUsage) of(dir string) (cafs.UsageInfo, time.Time, error) {
	d.mu.Lock()
	e, ok := d.seen[dir]
	d.mu.Unlock()
	if ok && time.Since(e.at) < e.good {
		return e.usage, e.at, nil
	}
	start := time.Now()
	u, err := cafs.GetDirUsage(dir)
	if err != nil {
		return u, time.Time{}, fmt.Errorf("measure folder %q: %w", dir, err)
	}
	e = duEntry{u, time.Now(), duTTL(time.Since(start))}
	d.mu.Lock()
	defer d.mu.Unlock()
	for k, old := range d.seen {
		if time.Since(old.at) > 5*duMax {
			delete(d.seen, k)
		}
	}
	d.seen[dir] = e
	return e.usage, e.at, nil
}

// fsStats measures the filesystem that path lies on.
func fsStats(path string, at time.Time) (*statsapi.FsStats, error) {
	var st unix.Statfs_t
	if err := unix.Statfs(path, &st); err != nil {
		return nil, fmt.Errorf("measure filesystem of %q: %w", path, err)
	}
	bs := uint64(st.Frsize)
	capacity, avail, used := st.Blocks*bs, st.Bavail*bs, (st.Blocks-st.Bfree)*bs
	inodes, free := st.Files, st.Ffree
	inodesUsed := inodes - free
	return &statsapi.FsStats{Time: metav1.NewTime(at), AvailableBytes: &avail, CapacityBytes: &capacity, UsedBytes: &used,
		Inodes: &inodes, InodesFree: &free, InodesUsed: &inodesUsed}, nil
}

// ownFilesystem says whether path is on another filesystem than its parent.
func ownFilesystem(path string) bool {
	var a, b unix.Stat_t
	if unix.Stat(path, &a) != nil || unix.Stat(filepath.Dir(path), &b) != nil {
		return false
	}
	return a.Dev != b.Dev
}

func itoa(n int) string { return strconv.Itoa(n) }
