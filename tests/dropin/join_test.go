package dropin

import (
	"bufio"
	"context"
	"crypto/x509"
	"fmt"
	"net"
	"os"
	"os/exec"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	certv1 "k8s.io/api/certificates/v1"
	v1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/yaml"

	"github.com/reevehq/reeve/internal/testenv"
	"github.com/reevehq/reeve/tests/node"
)

var netDialer = net.Dialer{Timeout: 10 * time.Second}

const counter = `apiVersion: v1
kind: Pod
metadata: {name: counter, namespace: default}
spec:
  nodeName: node-b
  terminationGracePeriodSeconds: 1
  containers:
  - name: c
    image: ` + testenv.BusyboxRef + `
    imagePullPolicy: Never
    command: [sh, -c, 'i=0; while :; do echo line $i; i=$((i+1)); sleep 0.2; done']
    livenessProbe: {exec: {command: ["true"]}, periodSeconds: 1}
`

const static = `apiVersion: v1
kind: Pod
metadata: {name: %[1]s, labels: {version: "%[2]s"}}
spec:
  hostNetwork: true
  terminationGracePeriodSeconds: 1
  containers:
  - name: c
    image: ` + testenv.BusyboxRef + `
    imagePullPolicy: Never
    command: [sh, -c, 'echo %[2]s > /out/%[1]s; while :; do sleep 1; done']
    volumeMounts: [{name: out, mountPath: /out}]
  volumes: [{name: out, hostPath: {path: %[3]q, type: DirectoryOrCreate}}]
`

func podOf(t *testing.T, text string) *v1.Pod {
	t.Helper()
	var p v1.Pod
	if err := yaml.UnmarshalStrict([]byte(text), &p); err != nil {
		t.Fatal(err)
	}
	return &p
}

// life is how long certificates hold here: the node renews them twice a minute or more.
const life = 20 * time.Second

// A node joins a control plane that it did not start, over nothing but a KubeletConfiguration and a bootstrap kubeconfig.
// Its certificates are signed and renewed there. Then the control plane stalls until they have expired.
func TestKubeletJoinsAndOutlivesItsCertificates(t *testing.T) {
	b := newBed(t)
	b.startServer("--cluster-signing-duration", life.String())
	b.prepareKubelet(`
rotateCertificates: true
serverTLSBootstrap: true
nodeLeaseDurationSeconds: 8
nodeStatusUpdateFrequency: 2s
authentication: {x509: {clientCAFile: `+b.path("server", "server", "pki", "ca.crt")+`}}
cpuManagerPolicy: static
systemReserved: {cpu: 500m}
registerWithTaints: [{key: example.org/dedicated, value: "yes", effect: NoSchedule}]
`, "--node-labels=example.org/zone=a", "--kubeconfig", b.path("kubelet.conf"), "--bootstrap-kubeconfig", b.bootstrapKubeconfig(), "--max-pods=50")
	b.kubelet.start()
	node.Eventually(t, "the node is Ready", b.ready)

	t.Run("it is a node and nothing else", func(t *testing.T) { b.onlyANode(t) })
	t.Run("it tells what it is", func(t *testing.T) { b.nodeObject(t) })
	t.Run("its lease is renewed", func(t *testing.T) { b.lease(t) })
	t.Run("its requests were approved and signed", func(t *testing.T) { b.requestsSigned(t) })

	if _, err := b.client.CoreV1().Pods("default").Create(t.Context(), podOf(t, counter), metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	var pod *v1.Pod
	node.Eventually(t, "the pod is Ready", func() (err error) { pod, err = b.running("default", "counter"); return err })
	t.Run("its pods are on the conflist's network and can be reached", func(t *testing.T) { b.reach(t, pod) })
	t.Run("without its network it is not Ready", func(t *testing.T) { b.networkGone(t) })
	t.Run("its runtime does not answer", func(t *testing.T) { b.runtimeStalls(t, pod) })
	t.Run("its object is deleted", func(t *testing.T) { b.deleted(t, pod) })
	t.Run("static pods have mirrors", func(t *testing.T) { b.mirrors(t) })
	t.Run("kube-proxy beside it", func(t *testing.T) { b.kubeProxy(t) })
	t.Run("its certificates are renewed under open connections", func(t *testing.T) { b.renewed(t) })
	t.Run("the API server stalls until they have expired", func(t *testing.T) { b.stalled(t, pod) })
}

func (b *bed) onlyANode(t *testing.T) {
	log := b.kubelet.text()
	for _, want := range []string{"cpuManagerPolicy", "--max-pods: set maxPods", "cgroup v1"} {
		if strings.Count(log, want) != 1 {
			t.Errorf("the log says %q %d times, want once", want, strings.Count(log, want))
		}
	}
	for _, address := range []string{"127.0.0.1:10249", "127.0.0.1:10256", "10.96.0.10:53"} {
		if c, err := net.DialTimeout("tcp", address, time.Second); err == nil {
			c.Close()
			t.Errorf("something serves on %s; a kubelet has no proxy and no DNS", address)
		}
	}
	if out, err := exec.Command("iptables-save").CombinedOutput(); err != nil || strings.Contains(string(out), "KUBE-SERVICES") || strings.Contains(string(out), "REEVE") {
		t.Errorf("packet rules of Services or of a network: %v\n%s", err, out)
	}
	st, err := os.Stat(b.path("kubelet.conf"))
	if err != nil || st.Mode().Perm() != 0o600 {
		t.Errorf("the kubeconfig: %v, %v; want mode 0600", st, err)
	}
	raw, err := os.ReadFile(b.path("kubelet.conf"))
	if err != nil || strings.Contains(string(raw), "token") || !strings.Contains(string(raw), b.path("pki", "kubelet-client-current.pem")) {
		t.Errorf("the kubeconfig does not point to the node's own certificate: %v\n%s", err, raw)
	}
	if n, err := b.client.CoreV1().Nodes().Get(t.Context(), "node-b", metav1.GetOptions{}); err != nil || n.Status.Capacity.Pods().Value() != 50 {
		t.Errorf("capacity %v, %v; want the flag's 50 pods", n.Status.Capacity, err)
	}
}

func (b *bed) requestsSigned(t *testing.T) {
	node.Eventually(t, "a request of each signer", func() error {
		list, err := b.client.CertificatesV1().CertificateSigningRequests().List(t.Context(), metav1.ListOptions{})
		if err != nil {
			return err
		}
		signed := map[string]string{}
		for _, r := range list.Items {
			if len(r.Status.Certificate) > 0 {
				signed[r.Spec.SignerName+" for "+strings.Split(r.Spec.Username, ":")[1]] = r.Spec.Username
			}
		}
		if signed[certv1.KubeAPIServerClientKubeletSignerName+" for bootstrap"] == "" || signed[certv1.KubeletServingSignerName+" for node"] != "system:node:node-b" {
			return fmt.Errorf("signed: %v", signed)
		}
		return nil
	})
	ca := x509.NewCertPool()
	raw, err := os.ReadFile(b.path("server", "server", "pki", "ca.crt"))
	if err != nil || !ca.AppendCertsFromPEM(raw) {
		t.Fatal(err)
	}
	node.Eventually(t, "the signed certificate is served", func() error {
		cert, err := shown()
		if err != nil {
			return err
		}
		_, err = cert.Verify(x509.VerifyOptions{Roots: ca, DNSName: node.IP, KeyUsages: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth}})
		return err
	})
}

func (b *bed) reach(t *testing.T, pod *v1.Pod) {
	if !strings.HasPrefix(pod.Status.PodIP, "10.244.0.") {
		t.Errorf("pod IP %q is not of the conflist's 10.244.0.0/24", pod.Status.PodIP)
	}
	node.Eventually(t, "logs through the API server", func() error {
		out, err := b.kubectl("logs", "counter", "--tail=1")
		if err != nil || !strings.HasPrefix(out, "line ") {
			return fmt.Errorf("kubectl logs: %w: %s", err, out)
		}
		return nil
	})
	if out, err := b.kubectl("exec", "counter", "--", "echo", "hello"); err != nil || !strings.Contains(out, "hello") {
		t.Errorf("kubectl exec: %v: %s", err, out)
	}
}

// wrote waits for the static pod's word: Ready says only that its process was made.
func (b *bed) wrote(t *testing.T, name, want string) {
	t.Helper()
	node.Eventually(t, "the word of "+name, func() error {
		raw, err := os.ReadFile(b.path("out", name))
		if err == nil && strings.TrimSpace(string(raw)) != want {
			err = fmt.Errorf("it wrote %q, want %q", raw, want)
		}
		return err
	})
}

func (b *bed) mirrors(t *testing.T) {
	pods := b.client.CoreV1().Pods("default")
	b.write("manifests/web.yaml", fmt.Sprintf(static, "web", "one", b.path("out")))
	var first *v1.Pod
	node.Eventually(t, "the mirror is Ready", func() (err error) { first, err = b.running("default", "web-node-b"); return err })
	if first.Annotations["kubernetes.io/config.source"] != "file" || first.Annotations["kubernetes.io/config.mirror"] == "" || len(first.OwnerReferences) != 1 || first.OwnerReferences[0].Kind != "Node" {
		t.Errorf("the mirror's annotations %v, owners %v", first.Annotations, first.OwnerReferences)
	}
	container := first.Status.ContainerStatuses[0].ContainerID

	// Deleted, it comes back; the pod never notices.
	if err := pods.Delete(t.Context(), "web-node-b", metav1.DeleteOptions{}); err != nil {
		t.Fatal(err)
	}
	var second *v1.Pod
	node.Eventually(t, "the mirror is made again", func() (err error) {
		if second, err = b.running("default", "web-node-b"); err == nil && second.UID == first.UID {
			err = fmt.Errorf("still the first mirror")
		}
		return err
	})
	if got := second.Status.ContainerStatuses[0].ContainerID; got != container {
		t.Errorf("deleting the mirror restarted the pod: container %s, then %s", container, got)
	}

	// Changed, both are replaced.
	b.write("manifests/web.yaml", fmt.Sprintf(static, "web", "two", b.path("out")))
	node.Eventually(t, "the mirror of the changed pod", func() error {
		p, err := b.running("default", "web-node-b")
		if err == nil && (p.Labels["version"] != "two" || p.Status.ContainerStatuses[0].ContainerID == container) {
			err = fmt.Errorf("labels %v, %s", p.Labels, p.Status.ContainerStatuses[0].ContainerID)
		}
		return err
	})
	b.wrote(t, "web", "two")

	// Removed, both go; a mistake in another file harms nobody.
	b.write("manifests/broken.yaml", "apiVersion: v1\nkind: Pod\nmetadata: {name: broken}\nspec: {containerz: []}\n")
	if err := os.Remove(b.path("manifests", "web.yaml")); err != nil {
		t.Fatal(err)
	}
	node.Eventually(t, "the mirror is gone", func() error {
		list, err := pods.List(t.Context(), metav1.ListOptions{LabelSelector: "version"})
		if err == nil && len(list.Items) > 0 {
			err = fmt.Errorf("%d are left", len(list.Items))
		}
		return err
	})
	node.Eventually(t, "the mistake is told", func() error {
		if !strings.Contains(b.kubelet.text(), `unknown field \"containerz\"`) {
			return fmt.Errorf("not in the log")
		}
		return nil
	})
	if err := os.Remove(b.path("manifests", "broken.yaml")); err != nil {
		t.Fatal(err)
	}
}

// renewed waits until both certificates have been renewed and the first client certificate is over, with connections to
// :10250 made all the time and a log followed across it.
func (b *bed) renewed(t *testing.T) {
	clientFile := b.path("pki", "kubelet-client-current.pem")
	firstClient := b.certificate(clientFile)
	firstServing, err := shown()
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	follow := b.kubectlCommand(ctx, "logs", "-f", "--tail=1", "counter")
	out, err := follow.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := follow.Start(); err != nil {
		t.Fatal(err)
	}
	lines := make(chan string, 1000)
	go func() {
		for s := bufio.NewScanner(out); s.Scan(); {
			lines <- s.Text()
		}
		close(lines)
	}()
	var dialed sync.WaitGroup
	dials, refused := 0, []error{}
	dialed.Go(func() {
		for ctx.Err() == nil {
			if _, err := shown(); err != nil && ctx.Err() == nil {
				refused = append(refused, err)
			}
			dials++
			time.Sleep(50 * time.Millisecond)
		}
	})
	node.Eventually(t, "both certificates are renewed, and the node is heard after its first one's end", func() error {
		serving, err := shown()
		if err != nil {
			return err
		}
		if serving.SerialNumber.Cmp(firstServing.SerialNumber) == 0 || b.certificate(clientFile).SerialNumber.Cmp(firstClient.SerialNumber) == 0 {
			return fmt.Errorf("still the first ones, which end at %s and %s", firstClient.NotAfter, firstServing.NotAfter)
		}
		return b.heardAfter(firstClient.NotAfter)
	})
	if err := b.ready(); err != nil {
		t.Errorf("the node is not Ready: %v", err)
	}
	before := len(lines)
	node.Eventually(t, "the followed log goes on", func() error {
		if len(lines) <= before {
			return fmt.Errorf("%d lines", len(lines))
		}
		return nil
	})
	cancel()
	dialed.Wait()
	_ = follow.Wait()
	if len(refused) > 0 || dials < 20 {
		t.Errorf("%d of %d connections to :10250 were refused: %v", len(refused), dials, refused)
	}
	last := -1
	for l := range lines {
		var n int
		if _, err := fmt.Sscanf(l, "line %d", &n); err != nil || last >= 0 && n != last+1 {
			t.Fatalf("the followed log jumps from %d to %q", last, l)
		}
		last = n
	}
}

// heardAfter answers nil once the node has renewed its lease after a time.
func (b *bed) heardAfter(at time.Time) error {
	lease, err := b.client.CoordinationV1().Leases("kube-node-lease").Get(context.Background(), "node-b", metav1.GetOptions{})
	if err != nil {
		return err
	}
	if !lease.Spec.RenewTime.After(at) {
		return fmt.Errorf("last heard at %s, want after %s", lease.Spec.RenewTime, at)
	}
	return nil
}

// stalled stops the control plane as it is: connections are accepted and nothing answers. The kubelet is restarted
// meanwhile and started with a static pod; its client certificate expires. Then all goes on.
func (b *bed) stalled(t *testing.T, pod *v1.Pod) {
	before, err := b.running("default", "counter")
	if err != nil {
		t.Fatal(err)
	}
	b.signalControlPlane(syscall.SIGSTOP)
	b.kubelet.stop()
	b.write("manifests/alone.yaml", fmt.Sprintf(static, "alone", "offline", b.path("out")))
	b.kubelet.start()
	node.Eventually(t, "a static pod runs without the API server", func() error {
		b.kubelet.alive()
		_, err := os.Stat(b.path("out", "alone"))
		return err
	})
	expires := b.certificate(b.path("pki", "kubelet-client-current.pem")).NotAfter
	node.Eventually(t, "the expired certificate is told of", func() error {
		b.kubelet.alive()
		if !strings.Contains(b.kubelet.text(), "client certificate has expired") {
			return fmt.Errorf("not yet; it ends at %s", expires)
		}
		return nil
	})
	b.signalControlPlane(syscall.SIGCONT)
	node.Eventually(t, "the node is heard again", func() error {
		b.kubelet.alive()
		return b.heardAfter(expires)
	})
	node.Eventually(t, "the node is Ready again", b.ready)
	node.Eventually(t, "the static pod has its mirror", func() error { _, err := b.running("default", "alone-node-b"); return err })
	after, err := b.running("default", "counter")
	if err != nil {
		t.Fatal(err)
	}
	was, is := before.Status.ContainerStatuses[0], after.Status.ContainerStatuses[0]
	if after.UID != pod.UID || is.ContainerID != was.ContainerID || is.RestartCount != was.RestartCount {
		t.Errorf("the pod did not run on: %s restarted %d times, then %s restarted %d times", was.ContainerID, was.RestartCount, is.ContainerID, is.RestartCount)
	}
	node.Eventually(t, "the API server reaches the node again", func() error {
		out, err := b.kubectl("exec", "counter", "--", "echo", "hello")
		if err != nil || !strings.Contains(out, "hello") {
			return fmt.Errorf("kubectl exec: %w: %s", err, out)
		}
		return nil
	})
}
