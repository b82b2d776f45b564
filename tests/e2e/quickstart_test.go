package e2e

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/reevehq/reeve/tests/node"
)

// TestQuickstartLeavesNothing runs what `make run ONCE=1` runs, twice, the first time killed halfway, and compares the
// host before and after: no process, mount, namespace, link, address, rule, cgroup or file of it remains.
func TestQuickstartLeavesNothing(t *testing.T) {
	dir := node.TempDir(t)
	defer os.RemoveAll(dir)
	before := restingHost(t)
	data := filepath.Join(dir, "quickstart")
	quickstart := func(ctx context.Context, env ...string) ([]byte, error) {
		cmd := exec.CommandContext(ctx, "../quickstart/run.sh", os.Getenv("REEVE_BIN"))
		cmd.Env = append(os.Environ(), append(env, "DATA_DIR="+data, "NOTIFY_SOCKET=",
			"SERVER_FLAGS=--cgroup-root="+node.CgroupRoot("quickstart")+" --cgroup-driver=cgroupfs --node-name=node-a "+strings.Join(node.RoomyDisk, " "))...)
		return cmd.CombinedOutput()
	}

	// Kill the script (SIGKILL: its clean-up cannot run) as soon as the node has a credential of its own.
	killCtx, kill := context.WithCancel(context.Background())
	defer kill()
	go func() {
		for killCtx.Err() == nil {
			if _, err := os.Stat(filepath.Join(data, "agent", "node.kubeconfig")); err == nil {
				kill()
			}
			time.Sleep(5 * time.Millisecond)
		}
	}()
	if out, err := quickstart(killCtx, "ONCE=1"); err == nil {
		t.Fatalf("the killed run ended well:\n%s", out)
	}

	ctx, cancel := context.WithTimeout(context.Background(), node.ExecTimeout)
	defer cancel()
	out, err := quickstart(ctx, "ONCE=1")
	if err != nil {
		t.Fatalf("run.sh: %v\n%s", err, out)
	}
	if got := strings.Count(string(out), "hello from pod hello-"); got < 6 {
		t.Errorf("%d pages fetched, want 6:\n%s", got, out)
	}
	if _, err := os.Stat(data); !os.IsNotExist(err) {
		t.Errorf("the data-dir is still there: %v", err)
	}
	t.Cleanup(func() {
		if t.Failed() {
			t.Logf("run.sh printed:\n%s", out)
		}
	})
	// The kernel takes links away some time after their namespace, and processes some time after they were ended.
	node.Eventually(t, "the host to be as before", func() error { return difference(before, hostState(t)) })
}

// restingHost is the host's state once nothing of the tests before is still going away.
func restingHost(t *testing.T) map[string][]string {
	t.Helper()
	state := hostState(t)
	node.Eventually(t, "the host to be at rest", func() error {
		before := state
		state = hostState(t)
		return difference(before, state)
	})
	return state
}

// difference says what is in one of the states and not in the other.
func difference(before, after map[string][]string) error {
	var all error
	kinds := maps.Clone(before)
	maps.Copy(kinds, after) // one that had nothing before may have something now
	for what := range kinds {
		was, is := before[what], after[what]
		for _, line := range is {
			if !slices.Contains(was, line) {
				all = errors.Join(all, fmt.Errorf("%s: left behind: %s", what, line))
			}
		}
		for _, line := range was {
			if !slices.Contains(is, line) {
				all = errors.Join(all, fmt.Errorf("%s: taken away: %s", what, line))
			}
		}
	}
	return all
}

// hostState lists what a node changes on a host, a sorted list of lines for each kind of thing.
func hostState(t *testing.T) map[string][]string {
	t.Helper()
	state := map[string][]string{}
	command := func(what string, keep func(string) bool, name string, args ...string) {
		out, err := run(name, args...)
		if err != nil {
			t.Fatal(err)
		}
		for line := range strings.Lines(out) {
			if line = strings.TrimSpace(line); line != "" && (keep == nil || keep(line)) {
				state[what] = append(state[what], line)
			}
		}
	}
	// Tables without a rule are iptables' own: it makes them when they are first used, and has no command that removes them.
	rules := func(line string) bool { return strings.HasPrefix(line, "-") }
	command("links", nil, "sh", "-c", "ip -br link | sort")
	command("addresses", func(l string) bool { return !strings.Contains(l, "fe80") }, "sh", "-c", "ip -o addr | awk '{print $2, $4}' | sort")
	command("routes", nil, "sh", "-c", "ip route show table all | grep -v fe80 | sort")
	command("namespaces", nil, "ip", "netns", "list")
	command("IPv4 rules", rules, "iptables-save")
	command("IPv4 chains", func(l string) bool { return strings.HasPrefix(l, ":KUBE") || strings.HasPrefix(l, ":REEVE") }, "iptables-save")
	command("IPv6 rules", rules, "ip6tables-save")
	command("processes", func(l string) bool { return !strings.HasPrefix(l, "[") && l != "ps -eo args" }, "ps", "-eo", "args")
	mounts, err := os.ReadFile("/proc/self/mountinfo")
	if err != nil {
		t.Fatal(err)
	}
	for line := range strings.Lines(string(mounts)) {
		f := strings.Fields(line)
		state["mounts"] = append(state["mounts"], f[4])
	}
	// cgroups are the machine's, and other tests have theirs under marks of their own: these are the names that this run
	// uses, and those that it would use at the top by mistake.
	for _, name := range []string{strings.TrimPrefix(node.CgroupRoot("quickstart"), "/") + "*", "kubepods*", "reeve-????????"} {
		for _, mount := range []string{"/sys/fs/cgroup/", "/sys/fs/cgroup/*/"} {
			found, err := filepath.Glob(mount + name)
			if err != nil {
				t.Fatal(err)
			}
			state["cgroups"] = append(state["cgroups"], found...)
		}
	}
	for what, top := range map[string]string{"/run": "/run", "/var/lib/cni": "/var/lib/cni"} {
		filepath.WalkDir(top, func(p string, d fs.DirEntry, err error) error {
			if err == nil {
				state[what] = append(state[what], p)
			}
			return nil
		})
	}
	return state
}
