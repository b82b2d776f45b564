package e2e

import (
	"context"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/reevehq/reeve/tests/node"
)

// load asks a Service in a loop, in the background, and keeps every failure.
type load struct {
	cancel context.CancelFunc
	done   chan struct{}

	mu       sync.Mutex
	asked    int
	failures []string
}

func startLoad(url string) *load {
	ctx, cancel := context.WithCancel(context.Background())
	l := &load{cancel: cancel, done: make(chan struct{})}
	go func() {
		defer close(l.done)
		for tick := time.NewTicker(20 * time.Millisecond); ; {
			select {
			case <-ctx.Done():
				tick.Stop()
				return
			case <-tick.C:
			}
			_, err := get(url)
			l.mu.Lock()
			l.asked++
			if err != nil {
				l.failures = append(l.failures, time.Now().Format("15:04:05.000 ")+err.Error())
			}
			l.mu.Unlock()
		}
	}()
	return l
}

// progress waits until the Service has answered n more requests.
func (l *load) progress(t *testing.T, n int) {
	t.Helper()
	l.mu.Lock()
	want := l.asked + n
	l.mu.Unlock()
	node.Eventually(t, "requests to go on", func() error {
		l.mu.Lock()
		defer l.mu.Unlock()
		if l.asked < want {
			return fmt.Errorf("%d of %d requests", l.asked, want)
		}
		return nil
	})
}

// stop ends the load and fails the test for every request that failed.
func (l *load) stop(t *testing.T) {
	t.Helper()
	l.cancel()
	<-l.done
	if len(l.failures) > 0 {
		t.Errorf("%d of %d requests failed, the first: %v", len(l.failures), l.asked, l.failures[:min(5, len(l.failures))])
	}
	t.Logf("%d requests to the Service, %d failed", l.asked, len(l.failures))
}

// podState is what must not change under a running pod when a part of the node dies.
type podState struct {
	ContainerIDs []string
	Restarts     int
	IP           string
	ReadySince   string
	Phase        string
}

// states are the pods of the default namespace by name.
func (n story) states() map[string]podState {
	n.T.Helper()
	var list struct {
		Items []struct {
			Metadata struct{ Name string }
			Status   struct {
				Phase, PodIP string
				Conditions   []struct{ Type, Status, LastTransitionTime string }
				Containers   []struct {
					ContainerID  string
					RestartCount int
				} `json:"containerStatuses"`
			}
		}
	}
	if err := json.Unmarshal([]byte(n.Kubectl("get", "pods", "-o", "json")), &list); err != nil {
		n.T.Fatal(err)
	}
	out := map[string]podState{}
	for _, p := range list.Items {
		s := podState{IP: p.Status.PodIP, Phase: p.Status.Phase}
		for _, c := range p.Status.Containers {
			s.ContainerIDs = append(s.ContainerIDs, c.ContainerID)
			s.Restarts += c.RestartCount
		}
		for _, c := range p.Status.Conditions {
			if c.Type == "Ready" {
				s.ReadySince = c.Status + " since " + c.LastTransitionTime
			}
		}
		out[p.Metadata.Name] = s
	}
	return out
}

// wantSame fails the test where a pod of before is not exactly as it was.
func (n story) wantSame(what string, before map[string]podState) {
	n.T.Helper()
	after := n.states()
	for name, was := range before {
		is, ok := after[name]
		if !ok {
			n.T.Errorf("%s: pod %s is gone", what, name)
			continue
		}
		if !slices.Equal(is.ContainerIDs, was.ContainerIDs) || is.Restarts != was.Restarts || is.IP != was.IP || is.ReadySince != was.ReadySince || is.Phase != was.Phase {
			n.T.Errorf("%s: pod %s was %+v and is %+v", what, name, was, is)
		}
	}
}

// wantEveryLineOnce reads a pod's log files and fails for a numbered line that is missing, doubled or out of order. It
// returns how many there are.
func (n story) wantEveryLineOnce(pod, container string) int {
	n.T.Helper()
	files, err := filepath.Glob(filepath.Join(n.Dir, "pod-logs", "default_"+pod+"_*", container, "*.log*"))
	if err != nil || len(files) == 0 {
		n.T.Fatalf("no log files of %s: %v", pod, err)
	}
	// Rotated files are named after their time, the live one is <n>.log and shortest.
	slices.SortFunc(files, func(a, b string) int {
		if la, lb := strings.HasSuffix(a, ".log"), strings.HasSuffix(b, ".log"); la != lb {
			if la {
				return 1
			}
			return -1
		}
		return strings.Compare(a, b)
	})
	next := 0
	for _, path := range files {
		b, err := os.ReadFile(path)
		if err != nil {
			n.T.Fatal(err)
		}
		for line := range strings.Lines(string(b)) {
			if !strings.HasSuffix(line, "\n") {
				break // the file's end, which is being written
			}
			// CRI log format: <time> <stream> <tag> <line>
			fields := strings.SplitN(line, " ", 4)
			var i int
			if len(fields) != 4 || fields[2] != "F" {
				n.T.Errorf("%s: line %q is not in CRI log format or is partial", path, line)
				continue
			}
			if _, err := fmt.Sscanf(fields[3], "line %d", &i); err != nil {
				n.T.Errorf("%s: line %q", path, line)
				continue
			}
			if i != next {
				n.T.Fatalf("%s: after line %d comes line %d", path, next-1, i)
			}
			next++
		}
	}
	return next
}
