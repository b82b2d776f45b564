package dropin

import (
	"crypto/tls"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	v1 "k8s.io/api/core/v1"

	"github.com/reevehq/reeve/internal/cgroup"
	"github.com/reevehq/reeve/internal/embedded"
	"github.com/reevehq/reeve/internal/testenv"
	"github.com/reevehq/reeve/tests/node"
)

// get asks an address without any credential.
func get(url string) (int, string, error) { return getWithin(url, 10*time.Second) }

// short is for addresses that may lead nowhere.
const short = 2 * time.Second

func getWithin(url string, timeout time.Duration) (int, string, error) {
	client := &http.Client{Timeout: timeout, Transport: &http.Transport{TLSClientConfig: &tls.Config{InsecureSkipVerify: true}, DisableKeepAlives: true}}
	resp, err := client.Get(url)
	if err != nil {
		return 0, "", err
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	return resp.StatusCode, string(body), err
}

// staticPod answers a pod of /pods once it is Ready.
func (b *bed) staticPod(name string) (*v1.Pod, error) {
	b.kubelet.alive()
	code, body, err := get("https://" + node.IP + ":10250/pods")
	if err != nil || code != http.StatusOK {
		return nil, fmt.Errorf("/pods: %d %s: %w", code, body, errors.Join(err, errors.New("no answer")))
	}
	var list v1.PodList
	if err := json.Unmarshal([]byte(body), &list); err != nil {
		return nil, err
	}
	for i := range list.Items {
		p := &list.Items[i]
		if p.Name != name {
			continue
		}
		for _, c := range p.Status.Conditions {
			if c.Type == v1.PodReady && c.Status == v1.ConditionTrue {
				return p, nil
			}
		}
		return p, fmt.Errorf("pod %s: %+v", name, p.Status)
	}
	return nil, fmt.Errorf("pod %s is not among %d", name, len(list.Items))
}

// serviceRulesOfOthers makes what another kube-proxy has on the host. Cleaning up after the kubelet must leave it.
func (b *bed) serviceRulesOfOthers(t *testing.T) {
	t.Helper()
	rule := []string{"-t", "nat", "-A", "KUBE-SERVICES", "-d", "10.96.0.77", "-j", "RETURN"}
	for _, args := range [][]string{{"-t", "nat", "-N", "KUBE-SERVICES"}, rule} {
		if out, err := exec.Command("iptables", args...).CombinedOutput(); err != nil {
			t.Fatalf("iptables %v: %v\n%s", args, err, out)
		}
	}
	t.Cleanup(func() { // after the node's clean-up
		rule[2] = "-D"
		for _, args := range [][]string{rule, {"-t", "nat", "-X", "KUBE-SERVICES"}} {
			if out, err := exec.Command("iptables", args...).CombinedOutput(); err != nil {
				t.Errorf("the Service rules of others went: iptables %v: %v\n%s", args, err, out)
			}
		}
	})
}

// Without a kubeconfig the node stands alone and runs what lies in its folder: here on a containerd whose own CRI plugin
// is on, as a host has it that ran another kubelet before.
func TestKubeletStandsAloneOnACRISocket(t *testing.T) {
	b := newBed(t)
	b.serviceRulesOfOthers(t)
	plugin := node.StartPlugin(t, node.PluginConfig{Dir: b.dir, PauseImage: embedded.PauseRef})
	plugin.Import(t, testenv.BuildParts(t).Pause)
	plugin.Import(t, testenv.BusyboxArchive(t))
	b.prepareKubelet(fmt.Sprintf(`
containerRuntimeEndpoint: %s
failCgroupV1: false
failSwapOn: false
authentication: {anonymous: {enabled: true}, webhook: {enabled: false}}
authorization: {mode: AlwaysAllow}
`, plugin.Endpoint))
	b.write("manifests/web.yaml", fmt.Sprintf(static, "web", "one", b.path("out")))
	b.rootOnAFilesystemOfItsOwn()
	b.kubelet.start()
	var first *v1.Pod
	node.Eventually(t, "the static pod is Ready", func() (err error) { first, err = b.staticPod("web-node-b"); return err })
	b.wrote(t, "web", "one")
	if code, body, err := get("http://127.0.0.1:10248/healthz"); err != nil || code != http.StatusOK || body != "ok" {
		t.Errorf("/healthz: %d %q %v", code, body, err)
	}
	for _, address := range []string{"127.0.0.1:10255", "127.0.0.1:10249"} {
		if c, err := net.DialTimeout("tcp", address, time.Second); err == nil {
			c.Close()
			t.Errorf("something serves on %s", address)
		}
	}
	serving := b.certificate(b.path("pki", "kubelet.crt"))
	if st, err := os.Stat(b.path("pki", "kubelet.key")); err != nil || st.Mode().Perm() != 0o600 {
		t.Errorf("the serving key: %v, %v; want mode 0600", st, err)
	}
	if strings.Contains(b.kubelet.text(), "cgroup v1") || strings.Contains(b.kubelet.text(), "Swap is on") {
		t.Errorf("an explicit false is told of:\n%s", b.kubelet.tail())
	}

	t.Run("its root turns read-only", func(t *testing.T) { b.readOnlyRoot(t, first) })

	// Killed and started again, it takes its pod over.
	b.kubelet.cmd.Process.Kill()
	<-b.kubelet.exited
	b.kubelet.start()
	var again *v1.Pod
	node.Eventually(t, "the pod after kill -9", func() (err error) { again, err = b.staticPod("web-node-b"); return err })
	was, is := first.Status.ContainerStatuses[0], again.Status.ContainerStatuses[0]
	if is.ContainerID != was.ContainerID || is.RestartCount != 0 || again.UID != first.UID {
		t.Errorf("after kill -9 it is %s, restarted %d times; before %s", is.ContainerID, is.RestartCount, was.ContainerID)
	}
	if cert, err := shown(); err != nil || !cert.Equal(serving) {
		t.Errorf("the self-signed certificate is another after a restart: %v", err)
	}

	// A changed file is another pod, a removed one none.
	b.write("manifests/web.yaml", fmt.Sprintf(static, "web", "two", b.path("out")))
	node.Eventually(t, "the changed pod", func() error {
		p, err := b.staticPod("web-node-b")
		if err == nil && p.Labels["version"] != "two" {
			err = fmt.Errorf("still version %s", p.Labels["version"])
		}
		return err
	})
	if err := os.Remove(b.path("manifests", "web.yaml")); err != nil {
		t.Fatal(err)
	}
	node.Eventually(t, "nothing runs", func() error {
		code, body, err := get("https://" + node.IP + ":10250/runningpods/")
		if err != nil || code != http.StatusOK || strings.Contains(body, "web-node-b") {
			return fmt.Errorf("/runningpods: %d %s %w", code, body, err)
		}
		return nil
	})
}

// What cannot work ends the start at once, with the code that keeps systemd from trying again, and with a line that names
// what is wrong.
func TestKubeletNamesWhatIsWrong(t *testing.T) {
	b := newBed(t)
	const head = "apiVersion: kubelet.config.k8s.io/v1beta1\nkind: KubeletConfiguration\n"
	host, err := cgroup.Detect()
	if err != nil {
		t.Fatal(err)
	}
	b.write("taken.conf", "not a kubeconfig")
	cases := map[string]struct {
		config string
		args   []string
		want   string
	}{
		"unknown field":                {head + "maxPod: 1\n", nil, `unknown field "maxPod"`},
		"unknown flag":                 {head, []string{"--no-such-flag"}, "--no-such-flag"},
		"an argument":                  {head, []string{"run"}, `"run"`},
		"relative data-dir":            {head, []string{"--data-dir=here"}, `--data-dir "here" is not absolute`},
		"read-only port":               {head + "readOnlyPort: 10255\n", nil, "readOnlyPort"},
		"bootstrap without kubeconfig": {head, []string{"--bootstrap-kubeconfig=/x"}, "--bootstrap-kubeconfig needs --kubeconfig"},
		"no kubeconfig":                {head, []string{"--kubeconfig=" + b.path("none")}, "is not there and no --bootstrap-kubeconfig is given"},
		"malformed kubeconfig":         {head, []string{"--kubeconfig=" + b.path("taken.conf")}, b.path("taken.conf")},
		"no bootstrap kubeconfig":      {head, []string{"--kubeconfig=" + b.path("none"), "--bootstrap-kubeconfig=" + b.path("none2")}, b.path("none2")},
		"cloud provider":               {head, []string{"--cloud-provider=aws"}, "--cloud-provider"},
		"node address":                 {head, []string{"--node-ip=here"}, "--node-ip"},
		"taint":                        {head, []string{"--register-with-taints=a:Never"}, "--register-with-taints"},
	}
	if len(host.V1) > 0 {
		cases["cgroup v1 refused"] = struct {
			config string
			args   []string
			want   string
		}{head + "failCgroupV1: true\n", nil, "failCgroupV1 is true"}
	}
	for name, tc := range cases {
		t.Run(name, func(t *testing.T) {
			b.write("k.yaml", tc.config)
			args := append([]string{"--config", b.path("k.yaml"), "--root-dir", b.path("root"), "--cert-dir", b.path("pki"), "--data-dir", b.path("data"),
				"--hostname-override", "node-b", "--cgroup-root", node.CgroupRoot(filepath.Base(b.dir))}, tc.args...)
			out, err := exec.Command(b.path("kubelet"), args...).CombinedOutput()
			var exit *exec.ExitError
			if !errors.As(err, &exit) || exit.ExitCode() != 78 {
				t.Errorf("ended with %v, want exit code 78", err)
			}
			lines := strings.Split(strings.TrimSpace(string(out)), "\n")
			if last := lines[len(lines)-1]; !strings.HasPrefix(last, "kubelet: ") || !strings.Contains(last, tc.want) {
				t.Errorf("the last line is %q, want it to say %q", last, tc.want)
			}
		})
	}
	// A node that never came to be leaves nothing that runs.
	node.Eventually(t, "nothing runs", func() error {
		var left []string
		for _, pid := range node.Processes(b.dir) {
			line, _ := os.ReadFile(fmt.Sprintf("/proc/%d/cmdline", pid))
			left = append(left, strings.ReplaceAll(string(line), "\x00", " "))
		}
		if len(left) > 0 {
			return fmt.Errorf("left: %q", left)
		}
		return nil
	})
}

// rootOnAFilesystemOfItsOwn puts --root-dir on a tmpfs, which a test can make read-only.
func (b *bed) rootOnAFilesystemOfItsOwn() {
	b.t.Helper()
	root := b.path("kubelet-root")
	if err := os.MkdirAll(root, 0o755); err != nil {
		b.t.Fatal(err)
	}
	if err := syscall.Mount("tmpfs", root, "tmpfs", 0, "mode=0755,size=64m"); err != nil {
		b.t.Fatal(err)
	}
	b.t.Cleanup(func() {
		if err := syscall.Unmount(root, syscall.MNT_DETACH); err != nil {
			b.t.Errorf("unmount: %v", err)
		}
	})
}

func (b *bed) remount(t *testing.T, flags uintptr) {
	t.Helper()
	node.Eventually(t, "the remount", func() error { return syscall.Mount("", b.path("kubelet-root"), "", syscall.MS_REMOUNT|flags, "") })
}

// readOnlyRoot makes the pods' files read-only, as a failing disk does: the new pod's status says why it cannot start, the
// old one runs on, and both do once the disk is writable again.
func (b *bed) readOnlyRoot(t *testing.T, old *v1.Pod) {
	b.remount(t, syscall.MS_RDONLY)
	b.write("manifests/late.yaml", fmt.Sprintf(static, "late", "x", b.path("out")))
	node.Eventually(t, "why the new pod cannot start is told", func() error {
		b.kubelet.alive()
		if text := b.kubelet.text(); !strings.Contains(text, "read-only file system") || !strings.Contains(text, "late-node-b") {
			return errors.New("not in the log")
		}
		return nil
	})
	p, err := b.staticPod("web-node-b")
	if err != nil || p.Status.ContainerStatuses[0].ContainerID != old.Status.ContainerStatuses[0].ContainerID {
		t.Errorf("the old pod did not run on: %v", err)
	}
	if code, body, err := get("http://127.0.0.1:10248/healthz"); err != nil || code != http.StatusOK {
		t.Errorf("/healthz: %d %q %v", code, body, err)
	}
	b.remount(t, 0)
	node.Eventually(t, "the new pod runs", func() error { _, err := b.staticPod("late-node-b"); return err })
	if err := os.Remove(b.path("manifests", "late.yaml")); err != nil {
		t.Fatal(err)
	}
}
