package cri

import (
	"os"
	"os/exec"
	"path/filepath"
	"syscall"
	"testing"
	"time"

	"github.com/reevehq/reeve/internal/testenv"
	"github.com/reevehq/reeve/tests/node"
)

func TestMain(m *testing.M) { node.Main(m) }

// tool is a program that `make tools` built, named by an environment variable.
func tool(t testing.TB, variable string) string {
	t.Helper()
	path := os.Getenv(variable)
	if path == "" {
		testenv.Skip(t, "needs "+variable+", which make tools builds")
	}
	if _, err := os.Stat(path); err != nil {
		t.Fatalf("%s: %v", variable, err)
	}
	return path
}

// newDir is a short folder (sockets lie in it) whose name marks the cgroups of the test.
func newDir(t testing.TB) string {
	t.Helper()
	dir := node.TempDir(t)
	t.Cleanup(func() {
		if !t.Failed() {
			os.RemoveAll(dir)
		} else {
			t.Logf("kept %s", dir)
		}
	})
	return dir
}

// startReeve runs `reeve cri` with a private containerd and returns its endpoint. The end of the test stops it and has
// `reeve cleanup` remove all of it, whose success is part of the test.
func startReeve(t testing.TB, dir, hostsDir string, flags ...string) string {
	t.Helper()
	bin := os.Getenv("REEVE_BIN")
	data, socket := filepath.Join(dir, "data"), "unix://"+filepath.Join(dir, "cri.sock")
	node.WriteConflist(t, filepath.Join(dir, "net.d"), filepath.Join(dir, "ipam"))
	log, err := os.Create(filepath.Join(dir, "reeve-cri.log"))
	if err != nil {
		t.Fatal(err)
	}
	defer log.Close()
	cmd := exec.Command(bin, append([]string{"cri", "--data-dir", data, "--listen", socket, "--registry-hosts-dir", hostsDir,
		"--cni-conf-dir", filepath.Join(dir, "net.d"), "--cni-bin-dir", node.CNIBinDir,
		"--cgroup-root", node.CgroupRoot(filepath.Base(dir)), "--cgroup-driver=cgroupfs"}, flags...)...)
	cmd.Stdout, cmd.Stderr = log, log
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	exited := make(chan error, 1)
	go func() { exited <- cmd.Wait() }()
	t.Cleanup(func() {
		cmd.Process.Signal(syscall.SIGTERM)
		select {
		case err := <-exited:
			if err != nil {
				t.Errorf("reeve cri on SIGTERM: %v\n%s", err, tail(log.Name()))
			}
		case <-time.After(node.WaitTimeout):
			cmd.Process.Kill()
			t.Errorf("reeve cri did not stop\n%s", tail(log.Name()))
		}
		if out, err := exec.Command(bin, "cleanup", "--data-dir", data, "--yes").CombinedOutput(); err != nil {
			t.Errorf("reeve cleanup: %v\n%s", err, out)
		}
	})
	node.WaitCRI(t, socket)
	return socket
}
