package bench

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"
)

// Rounds of BenchmarkCRI. CRI_ROUNDS and CRI_BURSTS change them for a quick look.
const (
	criRounds = 60
	criBursts = 5
	criAtOnce = 50
)

func number(b *testing.B, env string, std int) int {
	s := os.Getenv(env)
	if s == "" {
		return std
	}
	n, err := strconv.Atoi(s)
	if err != nil {
		b.Fatal(err)
	}
	return n
}

// BenchmarkCRI measures the native runtime beside containerd's CRI plugin, on the same containerd, snapshotter and
// conflist with exec'd plugins, and as a third row the native runtime with the in-process network: each through its
// CRI socket, with the same client and the same requests, the rounds interleaved. First one pod after the other, then
// 50 at once. The native runtime starts a pod's pause container after its first container, so removal is not measured
// before pause is there, and of many at once "settled" counts until the last pause runs.
func BenchmarkCRI(b *testing.B) {
	d := newCRIBed(b)
	sides := []*side{d.plugin(b), d.native(b, "conflist", d.conflist(b)), d.native(b, "builtin", d.builtin(b))}
	for i := range warmups + number(b, "CRI_ROUNDS", criRounds) {
		for j := range sides {
			s := sides[(i+j)%len(sides)] // nobody always comes first
			used := d.cpu(b)
			id, run, start, err := s.up(s.pod())
			if err != nil {
				b.Fatalf("%s: %v", s.name, err)
			}
			s.settle(b, id)
			gone, err := s.down(id)
			if err != nil {
				b.Fatalf("%s: %v", s.name, err)
			}
			if i >= warmups {
				s.cpu = append(s.cpu, d.cpu(b)-used)
				s.run, s.start, s.started, s.gone = append(s.run, run), append(s.start, start), append(s.started, run+start), append(s.gone, gone)
			}
		}
	}
	for i := range number(b, "CRI_BURSTS", criBursts) {
		for j := range sides {
			sides[(i+j)%len(sides)].atOnce(b, criAtOnce)
		}
	}
	medians := map[string]map[string]time.Duration{}
	for _, s := range sides {
		m := map[string]time.Duration{}
		for what, list := range map[string][]time.Duration{
			"sandbox": s.run, "container": s.start, "started": s.started, "removed": s.gone, "cpu": s.cpu,
			"burst-each": s.each, "burst-all": s.burst, "burst-settled": s.settled, "burst-removed": s.cleared,
		} {
			if len(list) > 0 {
				m[what] = report(b, s.name+"-"+what, list)
			}
		}
		medians[s.name] = m
	}
	for _, what := range []string{"started", "removed", "cpu", "burst-each", "burst-all", "burst-settled", "burst-removed"} {
		for _, name := range []string{"conflist", "builtin"} {
			if of := medians["plugin"][what]; of > 0 {
				b.ReportMetric(float64(medians[name][what])/float64(of), name+"-"+what+"-per-plugin")
			}
		}
	}
}

// atOnce makes n pods at once, and then removes them at once.
func (s *side) atOnce(b *testing.B, n int) {
	b.Helper()
	ids, each, errs := make([]string, n), make([]time.Duration, n), make([]error, n)
	var wg sync.WaitGroup
	began := time.Now()
	for i := range n {
		sandbox, container := s.pod()
		wg.Go(func() {
			var run, start time.Duration
			ids[i], run, start, errs[i] = s.up(sandbox, container)
			each[i] = run + start
		})
	}
	wg.Wait()
	s.burst = append(s.burst, time.Since(began))
	s.each = append(s.each, each...)
	if err := errors.Join(errs...); err != nil {
		b.Fatalf("%s, %d at once: %v", s.name, n, err)
	}
	for _, id := range ids {
		s.settle(b, id)
	}
	s.settled = append(s.settled, time.Since(began))
	began = time.Now()
	for i := range n {
		wg.Go(func() { _, errs[i] = s.down(ids[i]) })
	}
	wg.Wait()
	s.cleared = append(s.cleared, time.Since(began))
	if err := errors.Join(errs...); err != nil {
		b.Fatalf("%s, removing %d at once: %v", s.name, n, err)
	}
}

// BenchmarkCRIMemory measures what a pod costs in memory: the growth of everything that serves it (containerd, its
// shims, and on the native side `reeve cri` and logpump) from none to 30 pods, a containerd of its own for each side.
// The containers' own processes do not count. Shared pages count by their share (Pss).
func BenchmarkCRIMemory(b *testing.B) {
	const pods = 30
	for _, native := range []bool{false, true} {
		d := newCRIBed(b)
		var s *side
		if native {
			s = d.process(b)
		} else {
			s = d.plugin(b)
		}
		sandbox, container := s.pod()
		id, _, _, err := s.up(sandbox, container) // what is only once is there
		if err != nil {
			b.Fatal(err)
		}
		if _, err := s.down(id); err != nil {
			b.Fatal(err)
		}
		before := d.memory(b)
		for range pods {
			if _, _, _, err := s.up(s.pod()); err != nil {
				b.Fatal(err)
			}
		}
		time.Sleep(15 * time.Second) // the measurement's own condition: rest, with the plugin's statistics collected
		after := d.memory(b)
		total := 0
		for _, part := range []string{"containerd", "shims", "reeve", "logpump"} {
			grown := after[part] - before[part]
			total += grown
			b.ReportMetric(float64(grown)/1024/pods, s.name+"-"+part+"-MB/pod")
			b.Logf("%s: %s %d → %d kB", s.name, part, before[part], after[part])
		}
		b.ReportMetric(float64(total)/1024/pods, s.name+"-MB/pod")
		list, err := s.rt.ListPodSandbox(b.Context(), nil)
		if err != nil {
			b.Fatal(err)
		}
		for _, sb := range list {
			if _, err := s.down(sb.Id); err != nil {
				b.Fatal(err)
			}
		}
	}
}

// memory sums Pss in kB by part.
func (d *criBed) memory(b *testing.B) map[string]int {
	b.Helper()
	out := map[string]int{}
	list, err := filepath.Glob("/proc/[0-9]*/smaps_rollup")
	if err != nil {
		b.Fatal(err)
	}
	for _, path := range list {
		cmdline, err := os.ReadFile(filepath.Join(filepath.Dir(path), "cmdline"))
		if err != nil || !strings.Contains(string(cmdline), d.dir) {
			continue
		}
		part := ""
		switch name := filepath.Base(strings.Split(string(cmdline), "\x00")[0]); {
		case strings.HasPrefix(name, "containerd-shim"):
			part = "shims"
		case name == "containerd", name == "logpump":
			part = name
		case strings.HasPrefix(name, "reeve"):
			part = "reeve"
		default:
			continue
		}
		text, err := os.ReadFile(path)
		if err != nil {
			continue // ended meanwhile
		}
		for line := range strings.Lines(string(text)) {
			var kb int
			if n, _ := fmt.Sscanf(line, "Pss: %d kB", &kb); n == 1 {
				out[part] += kb
			}
		}
	}
	return out
}
