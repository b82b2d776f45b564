package cri

import (
	"bytes"
	"context"
	"encoding/json"
	"flag"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/reevehq/reeve/internal/testenv"
	"github.com/reevehq/reeve/tests/node"
)

var update = flag.Bool("update", false, "with REEVE_LONG=1: write testdata/plugin.txt and docs/CRITEST.md anew")

const (
	// pluginFile is what containerd's CRI plugin makes of critest on this kind of host.
	pluginFile = "testdata/plugin.txt"
	// critestTimeout bounds one run of all specs: one and a half minutes when nothing else runs.
	critestTimeout = 15 * time.Minute
	// workers is how many specs run at once; most of them wait.
	workers = 6
)

// TestCritest runs every spec of critest against `reeve cri`. None may fail, and none may be skipped that the plugin
// does not skip too.
func TestCritest(t *testing.T) {
	program := tool(t, "CRITEST_BIN")
	dir := newDir(t)
	shop := openShop(t)
	native := runCritest(t, program, shop, dir, startReeve(t, dir, shop.hostsDir))
	plugin := readOutcomes(t)
	if testenv.Long() {
		t.Run("plugin", func(t *testing.T) {
			dir := newDir(t)
			p := node.StartPlugin(t, node.PluginConfig{Dir: dir, PauseImage: pluginPause, HostsDir: shop.hostsDir})
			fresh := runCritest(t, program, shop, dir, p.Endpoint)
			if *update {
				writeOutcomes(t, fresh)
				writePage(t, native, fresh)
			} else if diff := changed(plugin, fresh); diff != "" {
				t.Errorf("the plugin does not what %s says; look why, then -update:\n%s", pluginFile, diff)
			}
			plugin = fresh
		})
	}
	judge(t, native, plugin)
}

// TestCritestOnBuiltinNetwork runs the specs that have to do with the network once more, on the built-in one in place of
// the conflist.
func TestCritestOnBuiltinNetwork(t *testing.T) {
	program := tool(t, "CRITEST_BIN")
	dir := newDir(t)
	shop := openShop(t)
	endpoint := startReeve(t, dir, shop.hostsDir, "--network=builtin", "--pod-cidr=10.88.0.0/24")
	outcomes := runCritest(t, program, shop, dir, endpoint, "--focus=portforward|Networking|HostNetwork|Multiple Containers")
	for _, o := range outcomes {
		if o.State != "passed" {
			t.Errorf("%s: %s: %s", o.State, o.Spec, o.Why)
		}
	}
	if len(outcomes) < 11 {
		t.Errorf("only %d specs ran", len(outcomes))
	}
}

// outcome is what became of one spec.
type outcome struct {
	Spec, State, Why string
	Took             time.Duration
}

// runCritest runs all specs against an endpoint, or those that the runner's flags pick.
func runCritest(t testing.TB, program string, shop *shop, dir, endpoint string, flags ...string) []outcome {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), critestTimeout)
	defer cancel()
	// The binary's only change: the digest of an image that this host cannot have.
	body, err := os.ReadFile(program)
	if err != nil {
		t.Fatal(err)
	}
	if n := bytes.Count(body, []byte(upstreamDigest)); n == 0 {
		t.Fatalf("critest does not name the image with the digest %s any more", upstreamDigest)
	}
	suite, tmp, report := filepath.Join(dir, "critest.test"), filepath.Join(dir, "tmp"), filepath.Join(dir, "report.json")
	if err := os.WriteFile(suite, bytes.ReplaceAll(body, []byte(upstreamDigest), []byte(shop.digest)), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.MkdirAll(tmp, 0o1777); err != nil {
		t.Fatal(err)
	}
	args := []string{fmt.Sprintf("--nodes=%d", workers), "--no-color", "-v", "--output-dir=" + dir, "--json-report=report.json"}
	args = append(append(args, flags...), suite, "--", "-runtime-endpoint="+endpoint, "-config="+filepath.Join(dir, "no-crictl.yaml"))
	cmd := exec.CommandContext(ctx, filepath.Join(filepath.Dir(program), "ginkgo"), args...)
	cmd.Dir, cmd.Env = dir, append(os.Environ(), "TMPDIR="+tmp, "NO_PROXY=*")
	log, err := os.Create(filepath.Join(dir, "critest.log"))
	if err != nil {
		t.Fatal(err)
	}
	defer log.Close()
	cmd.Stdout, cmd.Stderr = log, log
	began := time.Now()
	runErr := cmd.Run()
	b, err := os.ReadFile(report)
	if err != nil {
		t.Fatalf("critest wrote no report: %v, %v\n%s", runErr, err, tail(log.Name()))
	}
	outcomes := readReport(t, b)
	t.Logf("critest on %s: %s in %s", endpoint, tally(outcomes), time.Since(began).Round(time.Second))
	return outcomes
}

// readReport reads ginkgo's JSON report. Benchmarks are not validation specs and never run.
func readReport(t testing.TB, b []byte) []outcome {
	t.Helper()
	var suites []struct {
		SpecReports []struct {
			ContainerHierarchyTexts []string
			LeafNodeText            string
			State                   string
			RunTime                 time.Duration
			Failure                 struct{ Message string }
		}
	}
	if err := json.Unmarshal(b, &suites); err != nil {
		t.Fatalf("read critest's report: %v", err)
	}
	var out []outcome
	for _, s := range suites {
		for _, r := range s.SpecReports {
			// Filtered ones are reported as skipped without a word.
			if r.LeafNodeText == "" || r.State == "skipped" && r.Failure.Message == "" || strings.Contains(strings.Join(r.ContainerHierarchyTexts, " "), "benchmark") {
				continue
			}
			out = append(out, outcome{Spec: strings.Join(append(r.ContainerHierarchyTexts, r.LeafNodeText), " "), State: r.State, Why: r.Failure.Message, Took: r.RunTime})
		}
	}
	slices.SortFunc(out, func(a, b outcome) int { return strings.Compare(a.Spec, b.Spec) })
	if len(out) == 0 {
		t.Fatal("critest's report has no specs")
	}
	return out
}

// judge fails for every spec that failed, and for every skip that is not also the plugin's.
func judge(t *testing.T, native, plugin []outcome) {
	t.Helper()
	theirs := map[string]string{}
	for _, o := range plugin {
		theirs[o.Spec] = o.State
	}
	for _, o := range native {
		switch {
		case o.State == "passed":
		case o.State == "skipped" && theirs[o.Spec] == "skipped":
			t.Logf("skipped, as by the plugin: %s: %s", o.Spec, firstLine(o.Why))
		default:
			t.Errorf("%s (with the plugin: %q): %s: %s", o.State, theirs[o.Spec], o.Spec, o.Why)
		}
	}
	for spec := range theirs {
		if !slices.ContainsFunc(native, func(o outcome) bool { return o.Spec == spec }) {
			t.Errorf("did not run: %s", spec)
		}
	}
}

func tally(list []outcome) string {
	n := map[string]int{}
	for _, o := range list {
		n[o.State]++
	}
	return fmt.Sprintf("%d specs, %d passed, %d skipped, %d failed", len(list), n["passed"], n["skipped"], len(list)-n["passed"]-n["skipped"])
}

func firstLine(s string) string {
	line, _, _ := strings.Cut(strings.TrimSpace(s), "\n")
	return line
}

func tail(path string) string {
	b, _ := os.ReadFile(path)
	lines := strings.Split(string(b), "\n")
	return strings.Join(lines[max(0, len(lines)-40):], "\n")
}
