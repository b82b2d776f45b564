package dropin

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	v1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/tools/clientcmd"
	clientcmdapi "k8s.io/client-go/tools/clientcmd/api"

	"github.com/reevehq/reeve/internal/testenv"
	"github.com/reevehq/reeve/tests/node"
)

// apiURL is where the control plane serves, in the namespace behind the node's.
const apiURL = "https://" + node.OutsideIP + ":6443"

// process is a program of a test, with its log.
type process struct {
	t      *testing.T
	name   string
	args   []string
	log    string
	cmd    *exec.Cmd
	exited chan error
}

func (p *process) start() {
	p.t.Helper()
	log, err := os.OpenFile(p.log, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		p.t.Fatal(err)
	}
	defer log.Close()
	p.cmd = exec.Command(p.args[0], p.args[1:]...)
	p.cmd.Stdout, p.cmd.Stderr = log, log
	p.cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	if err := p.cmd.Start(); err != nil {
		p.t.Fatal(err)
	}
	exited := make(chan error, 1)
	p.exited = exited
	go func(cmd *exec.Cmd) { exited <- cmd.Wait() }(p.cmd)
}

// stop ends it as systemd would; a second time does nothing.
func (p *process) stop() {
	p.t.Helper()
	if p.cmd == nil {
		return
	}
	p.cmd.Process.Signal(syscall.SIGTERM)
	select {
	case err := <-p.exited:
		if err != nil {
			p.t.Errorf("%s on SIGTERM: %v\n%s", p.name, err, p.tail())
		}
	case <-time.After(node.WaitTimeout):
		p.cmd.Process.Kill()
		p.t.Errorf("%s did not stop\n%s", p.name, p.tail())
	}
	p.cmd = nil
}

// alive fails the test when the program has ended by itself.
func (p *process) alive() error {
	select {
	case err := <-p.exited:
		p.cmd = nil
		p.t.Fatalf("%s ended: %v\n%s", p.name, err, p.tail())
	default:
	}
	return nil
}

func (p *process) text() string {
	b, _ := os.ReadFile(p.log)
	return string(b)
}

func (p *process) tail() string {
	lines := strings.Split(p.text(), "\n")
	return strings.Join(lines[max(0, len(lines)-50):], "\n")
}

// bed is a folder for one test with everything in it, and what runs from there.
type bed struct {
	t       *testing.T
	dir     string
	bin     string
	client  kubernetes.Interface // an administrator's, when there is a control plane
	server  *process
	kubelet *process
}

func newBed(t *testing.T) *bed {
	t.Helper()
	b := &bed{t: t, dir: node.TempDir(t), bin: os.Getenv("REEVE_BIN")}
	if err := os.Symlink(b.bin, b.path("kubelet")); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink(b.bin, b.path("kube-proxy")); err != nil {
		t.Fatal(err)
	}
	b.write("resolv.conf", "nameserver "+node.OutsideIP+"\n")
	t.Cleanup(func() {
		if !t.Failed() {
			os.RemoveAll(b.dir)
		}
	})
	return b
}

func (b *bed) path(elem ...string) string { return filepath.Join(append([]string{b.dir}, elem...)...) }

func (b *bed) write(name, body string) {
	b.t.Helper()
	if err := os.MkdirAll(filepath.Dir(b.path(name)), 0o755); err != nil {
		b.t.Fatal(err)
	}
	if err := os.WriteFile(b.path(name), []byte(body), 0o644); err != nil {
		b.t.Fatal(err)
	}
}

// startServer runs a control plane without a node in the namespace behind.
func (b *bed) startServer(flags ...string) {
	b.t.Helper()
	data := b.path("server")
	b.server = &process{t: b.t, name: "reeve server", log: b.path("server.log"), args: append([]string{
		"nsenter", "--net=/run/netns/" + node.OutsideNS, b.bin, "server", "--disable-agent", "--data-dir", data, "--node-ip", node.OutsideIP}, flags...)}
	b.server.start()
	b.t.Cleanup(func() {
		b.signalControlPlane(syscall.SIGCONT)
		b.server.stop()
	})
	node.Eventually(b.t, "the control plane", func() error {
		b.server.alive()
		config, err := clientcmd.BuildConfigFromFlags(apiURL, filepath.Join(data, "admin.kubeconfig"))
		if err != nil {
			return err
		}
		config.Timeout = 30 * time.Second
		if b.client, err = kubernetes.NewForConfig(config); err != nil {
			return err
		}
		if _, err := os.Stat(filepath.Join(data, "server", "node-token")); err != nil {
			return err
		}
		_, err = b.client.CoreV1().ServiceAccounts("default").Get(context.Background(), "default", metav1.GetOptions{})
		return err
	})
}

// signalControlPlane stops and continues the API server, etcd and the controllers, which are one process.
func (b *bed) signalControlPlane(sig syscall.Signal) {
	raw, err := os.ReadFile(b.path("server", "controlplane.pid"))
	if err == nil {
		var pid int
		if pid, err = strconv.Atoi(strings.TrimSpace(string(raw))); err == nil {
			err = syscall.Kill(pid, sig)
		}
	}
	if err != nil && !errors.Is(err, os.ErrNotExist) && sig != syscall.SIGCONT {
		b.t.Fatalf("signal the control plane: %v", err)
	}
}

// bootstrapKubeconfig is what an administrator gives a new node: the API server, its CA, and a bootstrap token.
func (b *bed) bootstrapKubeconfig() string {
	b.t.Helper()
	token, err := os.ReadFile(b.path("server", "server", "node-token"))
	if err != nil {
		b.t.Fatal(err)
	}
	_, bearer, _ := strings.Cut(strings.TrimSpace(string(token)), "::")
	admin, err := clientcmd.LoadFromFile(b.path("server", "admin.kubeconfig"))
	if err != nil {
		b.t.Fatal(err)
	}
	kc := clientcmdapi.NewConfig()
	for _, cluster := range admin.Clusters {
		kc.Clusters["c"] = &clientcmdapi.Cluster{Server: apiURL, CertificateAuthorityData: cluster.CertificateAuthorityData}
	}
	kc.AuthInfos["u"] = &clientcmdapi.AuthInfo{Token: bearer}
	kc.Contexts["x"] = &clientcmdapi.Context{Cluster: "c", AuthInfo: "u"}
	kc.CurrentContext = "x"
	path := b.path("bootstrap.kubeconfig")
	if err := clientcmd.WriteToFile(*kc, path); err != nil {
		b.t.Fatal(err)
	}
	return path
}

// images has the busybox image imported at the kubelet's start.
func (b *bed) images() {
	b.t.Helper()
	folder := b.path("data", "agent", "images")
	if err := os.MkdirAll(folder, 0o700); err != nil {
		b.t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(folder, "busybox.tar"), testenv.BusyboxArchive(b.t), 0o600); err != nil {
		b.t.Fatal(err)
	}
}

// prepareKubelet writes a KubeletConfiguration with what only this test's place needs, and more.
func (b *bed) prepareKubelet(more string, flags ...string) {
	b.t.Helper()
	node.WriteConflist(b.t, b.path("net.d"), b.path("ipam"))
	b.images()
	b.write("kubelet.yaml", fmt.Sprintf(`apiVersion: kubelet.config.k8s.io/v1beta1
kind: KubeletConfiguration
cgroupRoot: %s
cgroupDriver: cgroupfs
podLogsDir: %s
staticPodPath: %s
resolvConf: %s
evictionHard: {memory.available: 100Mi, nodefs.available: 1%%, imagefs.available: 1%%}
imageGCHighThresholdPercent: 100
imageGCLowThresholdPercent: 99
%s`, node.CgroupRoot(filepath.Base(b.dir)), b.path("pod-logs"), b.path("manifests"), b.path("resolv.conf"), more))
	b.kubelet = &process{t: b.t, name: "kubelet", log: b.path("kubelet.log"), args: append([]string{b.path("kubelet"),
		"--config", b.path("kubelet.yaml"), "--root-dir", b.path("kubelet-root"), "--cert-dir", b.path("pki"), "--hostname-override", "node-b",
		"--data-dir", b.path("data"), "--cni-conf-dir", b.path("net.d"), "--cni-bin-dir", node.CNIBinDir}, flags...)}
	b.t.Cleanup(func() {
		b.kubelet.stop()
		if b.t.Failed() {
			b.t.Logf("the folder is kept: %s\n%s", b.dir, b.kubelet.tail())
		}
		ctx, cancel := context.WithTimeout(context.Background(), node.ExecTimeout)
		defer cancel()
		if out, err := exec.CommandContext(ctx, b.bin, "cleanup", "--data-dir", b.path("data"), "--yes").CombinedOutput(); err != nil {
			b.t.Errorf("reeve cleanup: %v\n%s", err, out)
		}
	})
}

// kubectl runs kubectl as the administrator.
func (b *bed) kubectl(args ...string) (string, error) {
	cmd := b.kubectlCommand(context.Background(), args...)
	out, err := cmd.CombinedOutput()
	return string(out), err
}

func (b *bed) kubectlCommand(ctx context.Context, args ...string) *exec.Cmd {
	args = append([]string{"--server", apiURL, "--kubeconfig", b.path("server", "admin.kubeconfig")}, args...)
	cmd := exec.CommandContext(ctx, filepath.Join(filepath.Dir(b.bin), "kubectl"), args...)
	if _, err := os.Stat(cmd.Path); err != nil {
		cmd = exec.CommandContext(ctx, b.bin, append([]string{"kubectl"}, args...)...)
	}
	cmd.Env = append(os.Environ(), "HOME="+b.dir, "NO_PROXY=*")
	return cmd
}

// ready answers nil once the node is.
func (b *bed) ready() error {
	b.kubelet.alive()
	n, err := b.client.CoreV1().Nodes().Get(context.Background(), "node-b", metav1.GetOptions{})
	if err != nil {
		return err
	}
	for _, c := range n.Status.Conditions {
		if c.Type == v1.NodeReady && c.Status == v1.ConditionTrue {
			return nil
		}
	}
	return fmt.Errorf("conditions %+v", n.Status.Conditions)
}

// running answers a pod once it is Ready.
func (b *bed) running(namespace, name string) (*v1.Pod, error) {
	b.kubelet.alive()
	p, err := b.client.CoreV1().Pods(namespace).Get(context.Background(), name, metav1.GetOptions{})
	if err != nil {
		return nil, err
	}
	for _, c := range p.Status.Conditions {
		if c.Type == v1.PodReady && c.Status == v1.ConditionTrue {
			return p, nil
		}
	}
	return p, fmt.Errorf("pod %s/%s: phase %s, %+v", namespace, name, p.Status.Phase, p.Status.ContainerStatuses)
}

// certificate reads the first certificate of a PEM file.
func (b *bed) certificate(path string) *x509.Certificate {
	b.t.Helper()
	raw, err := os.ReadFile(path)
	if err != nil {
		b.t.Fatal(err)
	}
	for block, rest := pem.Decode(raw); block != nil; block, rest = pem.Decode(rest) {
		if block.Type == "CERTIFICATE" {
			cert, err := x509.ParseCertificate(block.Bytes)
			if err != nil {
				b.t.Fatal(err)
			}
			return cert
		}
	}
	b.t.Fatalf("%s holds no certificate", path)
	return nil
}

// shown is the certificate that :10250 shows.
func shown() (*x509.Certificate, error) {
	conn, err := tls.DialWithDialer(&netDialer, "tcp", node.IP+":10250", &tls.Config{InsecureSkipVerify: true})
	if err != nil {
		return nil, err
	}
	defer conn.Close()
	return conn.ConnectionState().PeerCertificates[0], nil
}
