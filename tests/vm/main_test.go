package vm

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/reevehq/reeve/internal/testenv"
)

// shared is the machine of this package's tests: made while the first waits for it.
var shared struct {
	once sync.Once
	m    *Machine
	err  error
}

func TestMain(m *testing.M) {
	code := m.Run()
	if shared.m != nil {
		_ = shared.m.Close()
	}
	os.Exit(code)
}

func machine(t testing.TB) *Machine {
	t.Helper()
	if err := Missing(); err != nil {
		testenv.Skip(t, err.Error())
	}
	parts := filepath.Dir(testenv.BuildParts(t).Logpump)
	shared.once.Do(func() {
		start := time.Now()
		shared.m, shared.err = bootShared(parts)
		t.Logf("Made and booted after %v", time.Since(start).Round(time.Second))
	})
	if shared.err != nil {
		t.Fatal(shared.err)
	}
	return shared.m
}

// bootShared makes the disk and what the machine carries side by side: test programs of packages whose tests run in it,
// static and without the race detector, with parts, the folder of testenv.BuildParts, which the runtime's tests need; and
// reeve where it has been built.
func bootShared(parts string) (*Machine, error) {
	ctx := context.Background()
	dir, err := os.MkdirTemp("", mark+fmt.Sprint(os.Getpid())+"-programs-")
	if err != nil {
		return nil, err
	}
	defer os.RemoveAll(dir)
	var wg sync.WaitGroup
	errs := make(chan error, 8)
	wg.Go(func() {
		_, err := Image(ctx)
		errs <- err
	})
	files := map[string]string{}
	programs := map[string]string{
		"proxy.test": "proxy", "ipvs.test": "proxy/ipvs", "systemd.test": "systemd", "cgroup.test": "internal/cgroup",
		"native.test": "cri/native", "fetch": "tests/node/fetch",
	}
	for _, name := range []string{"pause.tar", "hello.tar", "logpump"} {
		files["parts/"+name] = filepath.Join(parts, name)
	}
	for name, pkg := range programs {
		program := filepath.Join(dir, name)
		files[name] = program
		wg.Go(func() {
			if err := compile(ctx, program, pkg); err != nil {
				errs <- err
			}
		})
	}
	wg.Wait()
	close(errs)
	for err := range errs {
		if err != nil {
			return nil, err
		}
	}
	// Programs run in /payload, where they find what lies beside them in the tree.
	stories, err := filepath.Glob("../../proxy/plan/testdata/*.txtar")
	if err != nil || len(stories) == 0 {
		return nil, fmt.Errorf("find the stories: %v", err)
	}
	for _, path := range stories {
		files["plan/testdata/"+filepath.Base(path)] = path
	}
	if reeve := os.Getenv("REEVE_BIN"); reeve != "" {
		files["reeve"], files["busybox.tar"] = reeve, filepath.Join(dir, "busybox.tar")
		if err := writeBusybox(files["busybox.tar"]); err != nil {
			return nil, err
		}
	}
	return Start(ctx, Options{Files: files, MemoryMiB: 3072})
}

// compile makes a program, or the tests of a package, where the path ends so: static and without the race detector.
func compile(ctx context.Context, path, pkg string) error {
	args := []string{"build"}
	if strings.HasSuffix(path, ".test") {
		args = []string{"test", "-c"}
	}
	cmd := exec.CommandContext(ctx, "go", append(args, "-ldflags", "-s -w", "-o", path, "github.com/reevehq/reeve/"+pkg)...)
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("build %s: %w: %s", pkg, err, out)
	}
	return nil
}

// sh runs a script in the machine that must not fail, and answers its output.
func sh(t testing.TB, m *Machine, script string) string {
	t.Helper()
	r, err := m.Sh(t.Context(), script)
	if err != nil || r.Code != 0 {
		t.Fatalf("%s\nexit code %d, %v:\n%s", script, r.Code, err, r.Output)
	}
	return r.Output
}
