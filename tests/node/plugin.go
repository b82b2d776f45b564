package node

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"syscall"
	"testing"
	"time"

	containerd "github.com/containerd/containerd/v2/client"
	"github.com/containerd/containerd/v2/pkg/namespaces"
	"github.com/containerd/platforms"

	"github.com/reevehq/reeve/cri/remote"
	"github.com/reevehq/reeve/internal/cgroup"
)

// CNIBinDir is where Debian's containernetworking-plugins lie.
const CNIBinDir = "/usr/lib/cni"

// pluginConfig is a containerd with its own CRI plugin on, as a node has it. The OOM score is restricted because a process
// without CAP_SYS_RESOURCE may not lower it.
const pluginConfig = `version = 2
root = %[1]q
state = %[2]q
[grpc]
  address = %[3]q
[ttrpc]
  address = %[4]q
[debug]
  level = %[9]q
%[10]s
[plugins."io.containerd.grpc.v1.cri"]
  sandbox_image = %[5]q
  restrict_oom_score_adj = true
  [plugins."io.containerd.grpc.v1.cri".registry]
    config_path = %[6]q
  [plugins."io.containerd.grpc.v1.cri".cni]
    bin_dir = %[7]q
    conf_dir = %[8]q
`

// Conflist is what a cluster without an operator's network uses: ptp, host-local, which keeps its addresses in ipamDir, and
// portmap.
func Conflist(name, subnet, ipamDir string, masquerade bool) []byte {
	return fmt.Appendf(nil, `{"cniVersion":"1.0.0","name":%q,"plugins":[
{"type":"ptp","ipMasq":%t,"ipam":{"type":"host-local","dataDir":%q,"ranges":[[{"subnet":%q}]],"routes":[{"dst":"0.0.0.0/0"}]}},
{"type":"portmap","capabilities":{"portMappings":true}}]}
`, name, masquerade, ipamDir, subnet)
}

// WriteConflist writes a conflist into the folder, for pods in 10.244.0.0/24; its addresses are kept in ipamDir.
func WriteConflist(t testing.TB, folder, ipamDir string) {
	t.Helper()
	writeConflist(t, folder, Conflist("pods", "10.244.0.0/24", ipamDir, true))
}

func writeConflist(t testing.TB, folder string, conflist []byte) {
	t.Helper()
	if err := os.MkdirAll(folder, 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(folder, "10-pods.conflist"), conflist, 0o644); err != nil {
		t.Fatal(err)
	}
}

// Plugin is a private containerd whose own CRI plugin serves pods.
type Plugin struct {
	Endpoint string // unix://…
	// Address is the same socket's path, for clients of containerd; ConfDir holds the conflist.
	Address, ConfDir string

	dir    string
	cgroup string
	cmd    *exec.Cmd
}

// PluginConfig says what StartPlugin shall start.
type PluginConfig struct {
	// Dir is a short folder, made by the caller; its base name marks the cgroup.
	Dir string
	// PauseImage is the sandbox image; HostsDir containerd's registry hosts files, which may be missing.
	PauseImage, HostsDir string
	// Network is the pods' conflist, WriteConflist's by default.
	Network []byte
	// LogLevel is containerd's, info by default; More is added to its configuration.
	LogLevel, More string
}

// StartPlugin starts the containerd and waits until its CRI plugin is ready. The end of the test removes its pods and
// stops it.
func StartPlugin(t testing.TB, c PluginConfig) *Plugin {
	t.Helper()
	p := &Plugin{dir: filepath.Join(c.Dir, "plugin"), Address: filepath.Join(c.Dir, "plugin.sock")}
	p.Endpoint, p.ConfDir = "unix://"+p.Address, filepath.Join(p.dir, "net.d")
	if c.Network == nil {
		WriteConflist(t, p.ConfDir, filepath.Join(p.dir, "ipam"))
	} else {
		writeConflist(t, p.ConfDir, c.Network)
	}
	if c.LogLevel == "" {
		c.LogLevel = "info"
	}
	if err := os.WriteFile(filepath.Join(p.dir, "config.toml"), fmt.Appendf(nil, pluginConfig, filepath.Join(p.dir, "root"), filepath.Join(p.dir, "state"), p.Address, p.Address+".ttrpc",
		c.PauseImage, c.HostsDir, CNIBinDir, p.ConfDir, c.LogLevel, c.More), 0o644); err != nil {
		t.Fatal(err)
	}
	p.cgroup = CgroupRoot(filepath.Base(c.Dir)) + "/plugin"
	p.start(t)
	t.Cleanup(func() {
		p.removePods(t)
		p.cmd.Process.Signal(syscall.SIGTERM)
		p.cmd.Wait()
		// What containerd and its shims leave empty; a tidy-up of another test would be blamed for taking it away.
		for _, d := range []string{"/run/containerd/runc/k8s.io", "/run/containerd/runc", "/run/containerd/s", "/run/containerd"} {
			os.Remove(d)
		}
	})
	return p
}

// KillAndRestart ends the containerd with SIGKILL and starts it again, as the user's service manager would.
func (p *Plugin) KillAndRestart(t testing.TB) {
	t.Helper()
	p.cmd.Process.Kill()
	p.cmd.Wait()
	p.start(t)
}

// start starts containerd and waits until its plugin is ready.
func (p *Plugin) start(t testing.TB) {
	t.Helper()
	log, err := os.OpenFile(filepath.Join(p.dir, "containerd.log"), os.O_CREATE|os.O_WRONLY|os.O_APPEND, 0o600)
	if err != nil {
		t.Fatal(err)
	}
	defer log.Close()
	p.cmd = exec.Command("containerd", "--config", filepath.Join(p.dir, "config.toml"))
	p.cmd.Stdout, p.cmd.Stderr = log, log
	p.cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	if err := p.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	host, err := cgroup.Detect()
	if err == nil {
		err = host.Join(p.cgroup, p.cmd.Process.Pid)
	}
	if err != nil {
		p.cmd.Process.Kill()
		t.Fatal(err)
	}
	WaitCRI(t, p.Endpoint)
}

// Import puts an image archive where the plugin looks.
func (p *Plugin) Import(t testing.TB, archive []byte) {
	t.Helper()
	client, err := containerd.New(p.Address)
	if err != nil {
		t.Fatal(err)
	}
	defer client.Close()
	ctx := namespaces.WithNamespace(t.Context(), "k8s.io")
	list, err := client.Import(ctx, bytes.NewReader(archive), containerd.WithImportPlatform(platforms.Default()))
	if err != nil {
		t.Fatal(err)
	}
	for _, img := range list {
		if err := containerd.NewImage(client, img).Unpack(ctx, ""); err != nil {
			t.Fatal(err)
		}
	}
}

func (p *Plugin) removePods(t testing.TB) {
	ctx, cancel := context.WithTimeout(context.Background(), WaitTimeout)
	defer cancel()
	rt, err := remote.New(ctx, p.Endpoint)
	if err != nil {
		t.Errorf("clean up the CRI plugin: %v", err)
		return
	}
	defer rt.Close(ctx)
	pods, err := rt.ListPodSandbox(ctx, nil)
	if err != nil {
		t.Errorf("clean up the CRI plugin: %v", err)
	}
	for _, pod := range pods {
		if err := rt.StopPodSandbox(ctx, pod.Id); err == nil {
			rt.RemovePodSandbox(ctx, pod.Id)
		}
	}
}

// WaitCRI waits until a CRI endpoint says that runtime and network are ready.
func WaitCRI(t testing.TB, endpoint string) {
	t.Helper()
	Eventually(t, "the CRI at "+endpoint, func() error {
		ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
		defer cancel()
		rt, err := remote.New(ctx, endpoint)
		if err != nil {
			return err
		}
		defer rt.Close(ctx)
		status, err := rt.Status(ctx, false)
		if err != nil {
			return err
		}
		for _, c := range status.GetStatus().GetConditions() {
			if !c.Status {
				return fmt.Errorf("%s: %s", c.Type, c.Message)
			}
		}
		return nil
	})
}
