package e2e

import (
	"context"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/reevehq/reeve/tests/node"
)

// TestBadStart starts reeve in ways that cannot work: each ends with one line that names the thing and the fix, a code
// that is not zero, and nothing half-made left behind.
func TestBadStart(t *testing.T) {
	dir := node.TempDir(t)
	defer os.RemoveAll(dir)
	taken, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer taken.Close()
	port := fmt.Sprint(taken.Addr().(*net.TCPAddr).Port)
	config := filepath.Join(dir, "config.yaml")
	if err := os.WriteFile(config, []byte("max-pod: 3\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	newer := filepath.Join(dir, "newer")
	if err := os.MkdirAll(newer, 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(newer, "version"), []byte(`{"version":"v1.99.0+reeve.1","formats":{"agent":99}}`), 0o600); err != nil {
		t.Fatal(err)
	}
	small := filepath.Join(dir, "small")
	if err := os.MkdirAll(small, 0o700); err != nil {
		t.Fatal(err)
	}
	if err := unix.Mount("tmpfs", small, "tmpfs", 0, "size=8m"); err != nil {
		t.Fatal(err)
	}
	defer unix.Unmount(small, unix.MNT_DETACH)
	readOnly := filepath.Join(dir, "ro")
	if err := os.MkdirAll(readOnly, 0o700); err != nil {
		t.Fatal(err)
	}
	if err := unix.Mount("tmpfs", readOnly, "tmpfs", unix.MS_RDONLY, ""); err != nil {
		t.Fatal(err)
	}
	defer unix.Unmount(readOnly, unix.MNT_DETACH)
	fresh := filepath.Join(dir, "fresh")

	for _, c := range []struct {
		name string
		args []string
		env  []string
		uid  uint32
		want []string
	}{
		{name: "unknown flag", args: []string{"server", "--data-dirr=/x"}, want: []string{"--data-dirr", "--help"}},
		{name: "unknown command", args: []string{"serve"}, want: []string{"serve"}},
		{name: "flag's value", args: []string{"server", "--data-dir=" + fresh, "--max-pods=many"}, want: []string{"--max-pods", "many"}},
		{name: "configuration with an unknown key", args: []string{"server", "--data-dir=" + fresh, "--config=" + config}, want: []string{`"max-pod"`, "unknown key"}},
		{name: "configuration that is not there", args: []string{"server", "--data-dir=" + fresh, "--config=/nonexistent"}, want: []string{"/nonexistent"}},
		{name: "port in use", args: []string{"server", "--data-dir=" + fresh, "--bind-address=127.0.0.1", "--https-listen-port=" + port}, want: []string{"--https-listen-port", port, "in use"}},
		{name: "agent's port in use", args: []string{"agent", "--data-dir=" + fresh, "--server=https://127.0.0.1:1", "--token=abcdef.0123456789abcdef", "--kubelet-address=127.0.0.1", "--kubelet-port=" + port}, want: []string{"--kubelet-port", port, "in use"}},
		{name: "no root", args: []string{"server", "--data-dir=" + fresh}, uid: 65534, want: []string{"root", "sudo"}},
		{name: "data of a newer version", args: []string{"server", "--data-dir=" + newer}, want: []string{"v1.99.0+reeve.1", "newer"}},
		{name: "full disk", args: []string{"server", "--data-dir=" + small}, want: []string{small, "free"}},
		{name: "read-only disk", args: []string{"server", "--data-dir=" + readOnly}, want: []string{readOnly, "not writable"}},
		{name: "no iptables", args: []string{"agent", "--data-dir=" + fresh, "--server=https://127.0.0.1:1", "--token=abcdef.0123456789abcdef"}, env: []string{"PATH=/nonexistent"}, want: []string{"iptables", "apt-get install"}},
		{name: "no cluster", args: []string{"agent", "--data-dir=" + fresh}, want: []string{"--server", "--kubeconfig"}},
		{name: "a token that is none", args: []string{"agent", "--data-dir=" + fresh, "--server=https://127.0.0.1:1", "--token=none"}, want: []string{"token"}},
	} {
		t.Run(c.name, func(t *testing.T) {
			ctx, cancel := context.WithTimeout(context.Background(), node.ExecTimeout)
			defer cancel()
			cmd := exec.CommandContext(ctx, os.Getenv("REEVE_BIN"), append(c.args, "--node-ip="+node.IP)...)
			if c.args[0] == "serve" {
				cmd.Args = cmd.Args[:2]
			}
			cmd.Env = append(append(os.Environ(), "NOTIFY_SOCKET="), c.env...)
			if c.uid != 0 {
				cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: c.uid, Gid: c.uid}}
				// The built program may lie where that user cannot go.
				copied := filepath.Join("/run", "reeve-copy")
				body, err := os.ReadFile(os.Getenv("REEVE_BIN"))
				if err != nil {
					t.Fatal(err)
				}
				if err := os.WriteFile(copied, body, 0o755); err != nil {
					t.Fatal(err)
				}
				defer os.Remove(copied)
				cmd.Path = copied
			}
			out, err := cmd.CombinedOutput()
			if err == nil {
				t.Fatalf("it ended well:\n%s", out)
			}
			if ctx.Err() != nil {
				t.Fatalf("it did not end:\n%s", out)
			}
			lines := strings.Split(strings.TrimSpace(string(out)), "\n")
			last := lines[len(lines)-1]
			for _, want := range c.want {
				if !strings.Contains(last, want) {
					t.Errorf("the last line lacks %q: %s", want, last)
				}
			}
			if left := node.Processes(dir); len(left) > 0 {
				t.Errorf("processes %v are left", left)
			}
		})
	}
}

// TestBadPods makes pods that cannot start: each says why in its status and in an Event, and its neighbours run on.
func TestBadPods(t *testing.T) {
	n := story{node.New(t)}
	n.Busybox()
	n.Start()
	n.Kubectl("run", "neighbour", "--image="+node.BusyboxImage, "--image-pull-policy=Never", "--", "sleep", "3600")
	n.Kubectl("wait", "--for=condition=Ready", "pod/neighbour", "--timeout=180s")
	before := n.states()

	pod := func(name, container, volumes string) string {
		return fmt.Sprintf("apiVersion: v1\nkind: Pod\nmetadata: {name: %s}\nspec:\n  restartPolicy: Always\n  containers:\n  - name: c\n    imagePullPolicy: Never\n%s%s", name, container, volumes)
	}
	busybox := "    image: " + node.BusyboxImage + "\n"
	for _, c := range []struct {
		name, manifest string
		path, want     string // jsonpath of the pod, and what it comes to hold
		event          string
	}{
		{"no-image", pod("no-image", "    image: localhost/none:v1\n", ""),
			"{.status.containerStatuses[0].state.waiting.reason}", "ErrImageNeverPull", "ErrImageNeverPull"},
		{"bad-registry", strings.Replace(pod("bad-registry", "    image: 127.0.0.1:1/none:v1\n", ""), "Never", "Always", 1),
			"{.status.containerStatuses[0].state.waiting.reason}", "ImagePullBackOff", "Failed"},
		{"bad-command", pod("bad-command", busybox+"    command: [/no/such/program]\n", ""),
			"{.status.containerStatuses[0].state.waiting.reason}", "CrashLoopBackOff", "Failed"},
		{"no-configmap", pod("no-configmap", busybox+"    envFrom: [{configMapRef: {name: none}}]\n", ""),
			"{.status.containerStatuses[0].state.waiting.reason}", "CreateContainerConfigError", "Failed"},
		{"no-volume", pod("no-volume", busybox+"    volumeMounts: [{name: v, mountPath: /v}]\n", "  volumes: [{name: v, secret: {secretName: none}}]\n"),
			"{.status.containerStatuses[0].state.waiting.reason}", "ContainerCreating", "FailedMount"},
		{"crash", pod("crash", busybox+"    command: [sh, -c, 'echo why > /dev/termination-log; exit 3']\n", ""),
			"{.status.containerStatuses[0].lastState.terminated.exitCode} {.status.containerStatuses[0].lastState.terminated.message}", "3 why", "BackOff"},
	} {
		t.Run(c.name, func(t *testing.T) {
			n.KubectlIn(c.manifest, "apply", "-f", "-")
			node.Eventually(t, c.name+" to say why", func() error {
				out, err := n.TryKubectl("", "get", "pod", c.name, "-o", "jsonpath="+c.path)
				// A pod that cannot run its command alternates between its error and the back-off.
				if err == nil && !strings.Contains(out, c.want) && !(c.name == "bad-command" && strings.Contains(out, "RunContainerError")) {
					err = fmt.Errorf("status %q", out)
				}
				return err
			})
			node.Eventually(t, c.name+"'s Event", func() error {
				out, err := n.TryKubectl("", "get", "events", "--field-selector=involvedObject.name="+c.name, "-o", "jsonpath={.items[*].reason}")
				if err == nil && !strings.Contains(" "+out+" ", " "+c.event+" ") {
					err = fmt.Errorf("events %q", out)
				}
				return err
			})
		})
	}
	for name, c := range map[string]struct{ manifest, want string }{
		"unknown volume":   {pod("x", busybox+"    volumeMounts: [{name: none, mountPath: /v}]\n", ""), "spec.containers[0].volumeMounts[0].name: Not found"},
		"invalid quantity": {pod("x", busybox+"    resources: {limits: {memory: 12x}}\n", ""), "quantities must match"},
		"negative request": {pod("x", busybox+"    resources: {requests: {cpu: '-1'}}\n", ""), "spec.containers[0].resources.requests[cpu]: Invalid value"},
		"unknown field":    {pod("x", busybox+"    comand: [a]\n", ""), `unknown field "spec.containers[0].comand"`},
		"bad name":         {pod("Not_A_Name", busybox, ""), "metadata.name: Invalid value"},
	} {
		if out, err := n.TryKubectl(c.manifest, "create", "-f", "-"); err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: %q, %v; want an error with %q", name, out, err, c.want)
		}
	}
	n.wantSame("beside bad neighbours", before)
	n.Kubectl("delete", "pods", "--all", "--timeout=180s", "--grace-period=1")
}
