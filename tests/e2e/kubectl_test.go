package e2e

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/reevehq/reeve/tests/node"
)

// TestKubectl is an afternoon with kubectl: one Deployment with probes, a ConfigMap and a Secret, behind a ClusterIP and
// a NodePort Service, on one node. The subtests run in order and build on each other, as a user's commands do.
func TestKubectl(t *testing.T) { afternoon(t, story{node.New(t)}) }

// TestKubectlOnContainerdsPlugin is the same on a node whose pods containerd's own CRI plugin runs. The other stories of
// this package run there with REEVE_TEST_RUNTIME=plugin.
func TestKubectlOnContainerdsPlugin(t *testing.T) { afternoon(t, story{node.NewOnPlugin(t)}) }

func afternoon(t *testing.T, n story) {
	n.Busybox()
	n.Start()
	web, err := os.ReadFile("testdata/web.yaml")
	if err != nil {
		t.Fatal(err)
	}
	// step runs one part with the node's helpers reporting to it; a failed one ends the story.
	step := func(name string, f func(t *testing.T)) {
		t.Helper()
		outer := n.T
		ok := t.Run(name, func(t *testing.T) {
			n.T = t
			defer func() { n.T = outer }()
			f(t)
		})
		if !ok {
			t.Fatalf("step %q failed", name)
		}
	}
	step("apply and roll out", func(t *testing.T) {
		watch := n.background("get", "pods", "-l", "app=web", "-w", "--no-headers")
		n.Kubectl("apply", "-f", "testdata/web.yaml")
		n.Kubectl("rollout", "status", "deployment/web", "--timeout=180s")
		watch.waitFor(t, "Running")
		if out := n.Kubectl("get", "deployment", "web", "-o", "jsonpath={.status.readyReplicas}"); out != "3" {
			t.Errorf("readyReplicas = %q, want 3", out)
		}
		if out := n.Kubectl("apply", "-f", "testdata/web.yaml"); strings.Contains(out, "configured") {
			t.Errorf("applying the same again changed something:\n%s", out)
		}
	})
	step("apply on the server side", func(t *testing.T) {
		const cm = "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: ssa}\ndata: {a: %q}\n"
		n.KubectlIn(fmt.Sprintf(cm, "1"), "apply", "--server-side", "--field-manager=one", "-f", "-")
		if out, err := n.TryKubectl(fmt.Sprintf(cm, "2"), "apply", "--server-side", "--field-manager=two", "-f", "-"); err == nil || !strings.Contains(out, "conflict") {
			t.Errorf("a second manager's change: %v, want a conflict", err)
		}
		n.KubectlIn(fmt.Sprintf(cm, "2"), "apply", "--server-side", "--field-manager=two", "--force-conflicts", "-f", "-")
		if out := n.Kubectl("get", "cm", "ssa", "-o", "jsonpath={.data.a} {.metadata.managedFields[*].manager}"); !strings.HasPrefix(out, "2 ") || !strings.Contains(out, "two") {
			t.Errorf("after a forced apply: %q", out)
		}
	})
	step("describe and explain", func(t *testing.T) {
		pod := n.pods("app=web")[0]
		node.Eventually(t, "describe to tell everything, Events too", func() error {
			out, err := n.TryKubectl("", "describe", "pod", pod)
			for _, want := range []string{"Scheduled", "Started", "Ready", "/etc/web", "kube-api-access", "node-a"} {
				if err == nil && !strings.Contains(out, want) {
					err = fmt.Errorf("it lacks %q:\n%s", want, out)
				}
			}
			return err
		})
		if out := n.Kubectl("explain", "deployment.spec.strategy.rollingUpdate.maxSurge"); !strings.Contains(out, "IntOrString") {
			t.Errorf("explain: %s", out)
		}
		if out := n.Kubectl("describe", "node", "node-a"); !strings.Contains(out, "containerd://") || !strings.Contains(out, "Allocatable") {
			t.Errorf("describe node:\n%s", out)
		}
	})
	step("logs, exec, cp", func(t *testing.T) {
		pod := n.pods("app=web")[0]
		follow := n.background("logs", "-f", pod)
		follow.waitFor(t, "tick 3")
		if out := n.Kubectl("logs", pod, "--tail=1"); strings.Count(out, "\n") != 1 {
			t.Errorf("--tail=1 gave %q", out)
		}
		if out := n.Kubectl("exec", pod, "--", "sh", "-c", "cat /etc/web/greeting; echo; stat -L -c %a /etc/secret/password; echo $POD_IP"); !strings.HasPrefix(out, "first\n400\n10.244.") {
			t.Errorf("exec: %q", out)
		}
		if out := n.KubectlIn("typed\n", "exec", "-i", pod, "--", "cat"); out != "typed\n" {
			t.Errorf("exec -i: %q", out)
		}
		if _, err := n.TryKubectl("", "exec", pod, "--", "sh", "-c", "exit 7"); err == nil || !strings.Contains(err.Error(), "exit code 7") {
			t.Errorf("exec of a failing command: %v", err)
		}
		file := filepath.Join(t.TempDir(), "file")
		if err := os.WriteFile(file, []byte("carried"), 0o600); err != nil {
			t.Fatal(err)
		}
		n.Kubectl("cp", file, pod+":/tmp/file")
		n.Kubectl("cp", pod+":/tmp/file", file+".back")
		if b, err := os.ReadFile(file + ".back"); string(b) != "carried" {
			t.Errorf("cp there and back: %q, %v", b, err)
		}
	})
	step("port-forward", func(t *testing.T) {
		forward := n.background("port-forward", "service/web", ":80")
		line := forward.waitFor(t, "Forwarding from 127.0.0.1:")
		port := strings.Fields(strings.TrimPrefix(line, "Forwarding from 127.0.0.1:"))[0]
		for range 3 {
			if body, err := get("http://127.0.0.1:" + port + "/"); err != nil || !slices.Contains(n.pods("app=web"), strings.TrimSpace(body)) {
				t.Fatalf("through the forwarded port: %q, %v", body, err)
			}
		}
	})
	step("Services spread", func(t *testing.T) {
		pods := n.pods("app=web")
		clusterIP := n.Kubectl("get", "service", "web", "-o", "jsonpath={.spec.clusterIP}")
		podIP := n.Kubectl("get", "pod", pods[0], "-o", "jsonpath={.status.podIP}")
		node.Eventually(t, "the Service's rules, with every pod", func() error { return spread(pods, func() (string, error) { return get("http://" + clusterIP + "/") }) })
		n.wantSpread("the host to the ClusterIP", pods, func() (string, error) { return get("http://" + clusterIP + "/") })
		n.wantSpread("the host to the NodePort", pods, func() (string, error) { return get("http://" + node.IP + ":30080/") })
		n.wantSpread("outside to the NodePort", pods, func() (string, error) {
			return run("ip", "netns", "exec", node.OutsideNS, "curl", "-fsS", "--noproxy", "*", "--max-time", "5", "http://"+node.IP+":30080/")
		})
		inPod := func(url string) func() (string, error) {
			return func() (string, error) {
				return n.TryKubectl("", "exec", pods[0], "--", "fetch", url)
			}
		}
		n.wantSpread("a pod to the Service by DNS name, itself among the endpoints", pods, inPod("http://web.default.svc.cluster.local/"))
		if out, err := inPod("http://web/")(); err != nil {
			t.Errorf("by short DNS name: %q, %v", out, err)
		}
		other := n.Kubectl("get", "pod", pods[1], "-o", "jsonpath={.status.podIP}")
		if out, err := inPod("http://" + other + ":8080/")(); err != nil || strings.TrimSpace(out) != pods[1] {
			t.Errorf("pod to pod by address: %q, %v", out, err)
		}
		if out, err := get("http://" + podIP + ":8080/"); err != nil || strings.TrimSpace(out) != pods[0] {
			t.Errorf("host to pod: %q, %v", out, err)
		}
		for _, value := range []string{"0", "1"} {
			// Absent where br_netfilter is not in the kernel; the routed network does not depend on it either way.
			sysctl := "/proc/sys/net/bridge/bridge-nf-call-iptables"
			if err := os.WriteFile(sysctl, []byte(value), 0o644); err != nil {
				if os.IsNotExist(err) {
					t.Logf("no %s in this namespace: %v", sysctl, err)
					break
				}
				t.Fatal(err)
			}
			n.wantSpread("a pod to the Service with bridge-nf-call-iptables="+value, pods, inPod("http://"+clusterIP+"/"))
		}
	})
	step("update ConfigMap and Secret live", func(t *testing.T) {
		pod := n.pods("app=web")[0]
		n.Kubectl("patch", "configmap", "web-config", "-p", `{"data":{"greeting":"second"}}`)
		n.Kubectl("patch", "secret", "web-secret", "-p", `{"stringData":{"password":"two"}}`)
		node.Eventually(t, "the new content in the pod", func() error {
			out, err := n.TryKubectl("", "exec", pod, "--", "cat", "/etc/web/greeting", "/etc/secret/password")
			if err == nil && out != "secondtwo" {
				err = fmt.Errorf("read %q", out)
			}
			return err
		})
	})
	step("scale", func(t *testing.T) {
		n.Kubectl("scale", "deployment/web", "--replicas=5")
		n.Kubectl("rollout", "status", "deployment/web", "--timeout=180s")
		n.Kubectl("scale", "deployment/web", "--replicas=3")
		node.Eventually(t, "three pods", func() error {
			if got := n.pods("app=web"); len(got) != 3 {
				return fmt.Errorf("%d pods", len(got))
			}
			return nil
		})
	})
	step("set image, roll out, undo", func(t *testing.T) {
		before := n.Kubectl("get", "deployment", "web", "-o", "jsonpath={.spec.template.spec.containers[0].image}")
		n.Kubectl("set", "image", "deployment/web", "web=localhost/no-such-image:v9")
		node.Eventually(t, "the pull to fail", func() error {
			out, err := n.TryKubectl("", "get", "pods", "-l", "app=web", "-o", "jsonpath={.items[*].status.containerStatuses[*].state.waiting.reason}")
			if err == nil && !strings.Contains(out, "ErrImageNeverPull") {
				err = fmt.Errorf("waiting reasons: %q", out)
			}
			return err
		})
		clusterIP := n.Kubectl("get", "service", "web", "-o", "jsonpath={.spec.clusterIP}")
		// The pods that scaling down has just ended may still be among the endpoints.
		node.Eventually(t, "the old pods to serve during a failed rollout", func() error { _, err := get("http://" + clusterIP + "/"); return err })
		n.Kubectl("rollout", "undo", "deployment/web")
		n.Kubectl("rollout", "status", "deployment/web", "--timeout=180s")
		if after := n.Kubectl("get", "deployment", "web", "-o", "jsonpath={.spec.template.spec.containers[0].image}"); after != before {
			t.Errorf("after undo the image is %q, want %q", after, before)
		}
		if out := n.Kubectl("rollout", "history", "deployment/web"); strings.Count(out, "\n") < 3 {
			t.Errorf("history:\n%s", out)
		}
	})
	step("diff, tokens, auth", func(t *testing.T) {
		changed := strings.Replace(string(web), "replicas: 3", "replicas: 4", 1)
		out, err := n.TryKubectl(changed, "diff", "-f", "-")
		if err == nil || !strings.Contains(out, "+  replicas: 4") {
			t.Errorf("diff: %v\n%s", err, out)
		}
		token := strings.TrimSpace(n.Kubectl("create", "token", "default"))
		if strings.Count(token, ".") != 2 {
			t.Fatalf("token %q is no JWT", token)
		}
		server := strings.TrimSpace(n.Kubectl("config", "view", "--minify", "-o", "jsonpath={.clusters[0].cluster.server}"))
		ctx, cancel := context.WithTimeout(context.Background(), node.ExecTimeout)
		defer cancel()
		cmd := n.KubectlCommand(ctx, "auth", "whoami", "-o", "jsonpath={.status.userInfo.username}", "--kubeconfig=/dev/null", "--server="+server, "--insecure-skip-tls-verify", "--token="+token)
		if who, err := cmd.CombinedOutput(); err != nil || string(who) != "system:serviceaccount:default:default" {
			t.Errorf("whoami with the token: %q, %v", who, err)
		}
		if out := n.Kubectl("auth", "can-i", "create", "deployments"); strings.TrimSpace(out) != "yes" {
			t.Errorf("admin may not create deployments: %q", out)
		}
		if out, err := n.TryKubectl("", "auth", "can-i", "list", "secrets", "--as=system:serviceaccount:default:default"); err == nil || !strings.HasPrefix(out, "no") {
			t.Errorf("the default service account may list secrets: %q, %v", out, err)
		}
	})
	step("delete", func(t *testing.T) {
		n.Kubectl("delete", "-f", "testdata/web.yaml", "--timeout=180s")
		node.Eventually(t, "no pods", func() error {
			if got := n.pods("app=web"); len(got) > 0 {
				return fmt.Errorf("still %v", got)
			}
			return nil
		})
		node.Eventually(t, "no EndpointSlices", func() error {
			out, err := n.TryKubectl("", "get", "endpointslices", "-l", "kubernetes.io/service-name in (web, web-node)", "-o", "name")
			if err == nil && strings.TrimSpace(out) != "" {
				err = fmt.Errorf("still %s", out)
			}
			return err
		})
	})
}

// pods are the names of the live pods with the label, sorted.
func (n story) pods(selector string) []string {
	n.T.Helper()
	out := n.Kubectl("get", "pods", "-l", selector, "-o", `go-template={{range .items}}{{if not .metadata.deletionTimestamp}}{{.metadata.name}}{{"\n"}}{{end}}{{end}}`)
	names := strings.Fields(out)
	slices.Sort(names)
	return names
}

// wantSpread fails where asking again and again does not reach every pod, or fails.
func (n story) wantSpread(what string, pods []string, ask func() (string, error)) {
	n.T.Helper()
	if err := spread(pods, ask); err != nil {
		n.T.Fatalf("%s: %v", what, err)
	}
}

// spread asks until every pod has answered once. An ask that fails, or an answer from elsewhere, is an error.
func spread(pods []string, ask func() (string, error)) error {
	seen := map[string]int{}
	// With 3 endpoints chosen at random, 60 asks miss one of them once in 10^10 runs.
	for range 60 {
		out, err := ask()
		if err != nil {
			return err
		}
		pod := strings.TrimSpace(out)
		if !slices.Contains(pods, pod) {
			return fmt.Errorf("answered by %q, want one of %v", pod, pods)
		}
		if seen[pod]++; len(seen) == len(pods) {
			return nil
		}
	}
	return fmt.Errorf("answers came from %v, want all of %v", seen, pods)
}

// get fetches a page over a connection of its own.
func get(url string) (string, error) {
	client := http.Client{
		Timeout:   10 * time.Second,
		Transport: &http.Transport{DisableKeepAlives: true, DialContext: (&net.Dialer{Timeout: 5 * time.Second}).DialContext},
	}
	resp, err := client.Get(url)
	if err != nil {
		return "", err
	}
	defer resp.Body.Close()
	b, err := io.ReadAll(resp.Body)
	if err == nil && resp.StatusCode != http.StatusOK {
		err = fmt.Errorf("status %s", resp.Status)
	}
	return string(b), err
}

// run runs a command and returns its output.
func run(name string, args ...string) (string, error) {
	ctx, cancel := context.WithTimeout(context.Background(), node.ExecTimeout)
	defer cancel()
	out, err := exec.CommandContext(ctx, name, args...).CombinedOutput()
	if err != nil {
		return string(out), fmt.Errorf("%s %s: %w: %s", name, strings.Join(args, " "), err, out)
	}
	return string(out), nil
}

// stream is a kubectl that keeps running; it ends with the test.
type stream struct{ lines chan string }

// background starts kubectl and reads its lines.
func (n story) background(args ...string) *stream {
	n.T.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	cmd := n.KubectlCommand(ctx, args...)
	out, err := cmd.StdoutPipe()
	if err != nil {
		n.T.Fatal(err)
	}
	cmd.Stderr = os.Stderr
	if err := cmd.Start(); err != nil {
		n.T.Fatal(err)
	}
	s := &stream{lines: make(chan string, 4096)}
	go func() {
		defer close(s.lines)
		for scan := bufio.NewScanner(out); scan.Scan(); {
			select {
			case s.lines <- scan.Text():
			case <-ctx.Done():
				return
			}
		}
	}()
	n.T.Cleanup(func() {
		cancel()
		cmd.Wait()
	})
	return s
}

// waitFor returns the first line that contains want.
func (s *stream) waitFor(t *testing.T, want string) string {
	t.Helper()
	deadline := time.After(node.WaitTimeout)
	for {
		select {
		case line, ok := <-s.lines:
			if !ok {
				t.Fatalf("the output ended before a line with %q", want)
			}
			if strings.Contains(line, want) {
				return line
			}
		case <-deadline:
			t.Fatalf("no line with %q within %s", want, node.WaitTimeout)
		}
	}
}
