package cri

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/reevehq/reeve/tests/node"
)

// session is a user at a shell with crictl; all that he types and sees is its transcript.
type session struct {
	t          *testing.T
	program    string
	endpoint   string
	dir        string
	transcript strings.Builder
}

func newSession(t *testing.T, dir, endpoint string) *session {
	s := &session{t: t, program: tool(t, "CRICTL_BIN"), endpoint: endpoint, dir: dir}
	t.Cleanup(func() { t.Logf("transcript:\n%s", s.transcript.String()) })
	return s
}

func (s *session) command(ctx context.Context, args ...string) *exec.Cmd {
	cmd := exec.CommandContext(ctx, s.program, args...)
	cmd.Dir = s.dir
	cmd.Env = append(os.Environ(), "CRI_CONFIG_FILE="+filepath.Join(s.dir, "crictl.yaml"), "NO_PROXY=*")
	return cmd
}

// run runs one command, keeps its output and fails unless it contains every want.
func (s *session) run(line string, want ...string) string {
	s.t.Helper()
	ctx, cancel := context.WithTimeout(s.t.Context(), node.ExecTimeout)
	defer cancel()
	fmt.Fprintf(&s.transcript, "$ crictl %s\n", line)
	var stdout, stderr strings.Builder
	cmd := s.command(ctx, strings.Fields(line)...)
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	err := cmd.Run()
	out := stdout.String()
	fmt.Fprintf(&s.transcript, "%s%s\n", out, stderr.String())
	if err != nil {
		s.t.Fatalf("crictl %s: %v\n%s%s", line, err, out, stderr.String())
	}
	for _, w := range want {
		if !strings.Contains(out, w) {
			s.t.Errorf("crictl %s: the output lacks %q:\n%s", line, w, out)
		}
	}
	return strings.TrimSpace(out)
}

// background starts a command that goes on until the end of the test and gives its lines.
func (s *session) background(line string) <-chan string {
	s.t.Helper()
	fmt.Fprintf(&s.transcript, "$ crictl %s &\n\n", line)
	ctx, cancel := context.WithCancel(context.Background())
	cmd := s.command(ctx, strings.Fields(line)...)
	r, w := io.Pipe()
	cmd.Stdout, cmd.Stderr = w, w
	if err := cmd.Start(); err != nil {
		s.t.Fatal(err)
	}
	lines := make(chan string, 10000)
	done := make(chan struct{})
	go func() {
		defer close(lines)
		for in := bufio.NewScanner(r); in.Scan(); {
			lines <- in.Text()
		}
	}()
	go func() {
		defer close(done)
		cmd.Wait()
		w.Close()
	}()
	s.t.Cleanup(func() {
		cancel()
		<-done
	})
	return lines
}

// await reads lines until one contains want.
func (s *session) await(lines <-chan string, want string) {
	s.t.Helper()
	var seen []string
	ctx, cancel := context.WithTimeout(s.t.Context(), node.WaitTimeout)
	defer cancel()
	for {
		select {
		case line, ok := <-lines:
			if !ok {
				s.t.Fatalf("the command ended before it said %q:\n%s", want, strings.Join(seen, "\n"))
			}
			fmt.Fprintf(&s.transcript, "%s\n", line)
			if seen = append(seen, line); strings.Contains(line, want) {
				s.transcript.WriteByte('\n')
				return
			}
		case <-ctx.Done():
			s.t.Fatalf("the command did not say %q:\n%s", want, strings.Join(seen, "\n"))
		}
	}
}

// fetch gets a page through a port-forward.
func (s *session) fetch(pod, want string) {
	s.t.Helper()
	forward := s.background("port-forward " + pod + " 18080:80")
	s.await(forward, "Forwarding from 127.0.0.1:18080")
	node.Eventually(s.t, "a page through the port-forward", func() error {
		resp, err := http.Get("http://127.0.0.1:18080/")
		if err != nil {
			return err
		}
		defer resp.Body.Close()
		b, err := io.ReadAll(resp.Body)
		fmt.Fprintf(&s.transcript, "$ curl http://127.0.0.1:18080/\n%s\n", b)
		if err == nil && !strings.Contains(string(b), want) {
			err = fmt.Errorf("page %q lacks %q", b, want)
		}
		return err
	})
}

func (s *session) configure() {
	s.t.Helper()
	writeFile(s.t, filepath.Join(s.dir, "crictl.yaml"), "runtime-endpoint: "+s.endpoint+"\ntimeout: 60\n")
}

// TestCrictl goes through a pod's life by hand, on `reeve cri`.
func TestCrictl(t *testing.T) {
	dir := newDir(t)
	shop := openShop(t)
	s := newSession(t, dir, startReeve(t, dir, shop.hostsDir))
	s.configure()
	const image = "registry.k8s.io/" + e2eImages + "nginx:1.14-2"
	writeFile(t, filepath.Join(dir, "pod.json"), fmt.Sprintf(`{"metadata": {"name": "web", "namespace": "default", "uid": "0123"}, "labels": {"app": "web"},
 "log_directory": %q, "linux": {"cgroup_parent": %q, "security_context": {"namespace_options": {"pid": 1}}}}`,
		filepath.Join(dir, "logs"), node.CgroupRoot(filepath.Base(dir))+"/web"))
	writeFile(t, filepath.Join(dir, "container.json"), fmt.Sprintf(`{"metadata": {"name": "nginx"}, "image": {"image": %q}, "log_path": "nginx.log",
 "linux": {"security_context": {"namespace_options": {"pid": 1}}, "resources": {"cpu_shares": 102, "memory_limit_in_bytes": 67108864}}}`, image))

	s.run("version", "RuntimeName:  containerd")
	s.run("info", "RuntimeReady", "NetworkReady", `"cgroupDriver": "cgroupfs"`)
	s.run("runtime-config", "CGROUPFS")
	s.run("pull "+image, "Image is up to date")
	s.run("images", "registry.k8s.io/e2e-test-images/nginx", "1.14-2")
	s.run("inspecti "+image, `"repoTags"`, "sha256:")
	if used := s.run(imageUsage); len(used) < 8 {
		t.Errorf("%s bytes are used after a pull of 6 MB", used)
	}
	events := s.background("events")
	node.Eventually(t, "the events' stream", func() error {
		// Nothing tells when the stream has begun: make something happen until it shows.
		pod := s.run("runp pod.json")
		defer s.run("rmp --force " + pod)
		select {
		case <-events:
			return nil
		default:
			return fmt.Errorf("no event yet")
		}
	})

	pod := s.run("runp pod.json")
	s.run("pods --label app=web", "Ready", "web", "default", pod[:13])
	s.run("inspectp "+pod, "SANDBOX_READY", `"ip": "10.244.0.`)
	container := s.run("create " + pod + " container.json pod.json")
	s.run("ps -a", "Created", "nginx")
	s.run("start "+container, container)
	s.run("ps", "Running", "nginx", container[:13], pod[:13])
	s.run("inspect "+container, "CONTAINER_RUNNING", image, `"memoryLimitInBytes": "67108864"`)
	node.Eventually(t, "the first line of the log", func() error {
		if out := s.run("logs " + container); !strings.Contains(out, "nginx serves on :80") {
			return fmt.Errorf("log: %q", out)
		}
		return nil
	})
	s.run("exec "+container+" cat /proc/1/comm", "nginx")
	s.run("exec --sync " + container + " hostname")
	s.fetch(pod, "Welcome to nginx")
	s.run("stats "+container, "nginx", container[:13])
	s.run("statsp "+pod, "web", pod[:13])
	s.run("update --memory 134217728 "+container, container)
	s.run("inspect "+container, `"memoryLimitInBytes": "134217728"`)
	s.run("stop --timeout 1 "+container, container)
	s.run("ps -a", "Exited")
	s.run("rm "+container, container)
	s.run("stopp "+pod, "Stopped sandbox "+pod)
	s.run("pods", "NotReady")
	s.run("rmp "+pod, "Removed sandbox "+pod)
	s.run("rmi "+image, "Deleted: "+image)
	for _, event := range []string{"CONTAINER_CREATED_EVENT", "CONTAINER_STARTED_EVENT", "CONTAINER_STOPPED_EVENT", "CONTAINER_DELETED_EVENT"} {
		s.await(events, event)
	}
	if out := s.run("pods -q"); out != "" {
		t.Errorf("pods at the end: %s", out)
	}
	if out := s.run("ps -a -q"); out != "" {
		t.Errorf("containers at the end: %s", out)
	}
}

const imageUsage = "imagefsinfo -o go-template --template {{range.status.imageFilesystems}}{{.usedBytes.value}}{{end}}"

// TestCrictlOnANode looks at a node's pods through the agent's own socket.
func TestCrictlOnANode(t *testing.T) {
	dir := newDir(t)
	shop := openShop(t)
	n := node.New(t, "--registry-hosts-dir", shop.hostsDir)
	n.Start()
	s := newSession(t, dir, "unix://"+filepath.Join(n.DataDir(), "agent", "cri.sock"))
	s.configure()
	const image = "registry.k8s.io/" + e2eImages + "nginx:1.14-2"
	s.run("pull "+image, "Image is up to date")
	n.Kubectl("run", "web", "--image="+image, "--port=80")
	n.Kubectl("wait", "--for=condition=Ready", "pod/web", "--timeout=120s")
	s.run("info", "RuntimeReady", "NetworkReady")
	s.run("images", "registry.k8s.io/e2e-test-images/nginx", "1.14-2")
	events := s.background("events")
	pod := s.run("pods --quiet --name web")
	s.run("pods", "Ready", "web", "default")
	container := s.run("ps --quiet --pod " + pod)
	s.run("ps", "Running", "web")
	s.run("inspect "+container, "CONTAINER_RUNNING", `"io.kubernetes.pod.name": "web"`)
	s.run("logs "+container, "nginx serves on :80")
	s.run("exec "+container+" hostname", "web")
	s.fetch(pod, "Welcome to nginx")
	s.run("stats "+container, "web")
	// What crictl stops, the agent starts again.
	s.run("stop "+container, container)
	s.await(events, "CONTAINER_STOPPED_EVENT")
	s.await(events, "CONTAINER_STARTED_EVENT")
	n.Kubectl("wait", "--for=jsonpath={.status.containerStatuses[0].restartCount}=1", "pod/web", "--timeout=120s")
}
