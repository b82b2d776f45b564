package native

import (
	"bytes"
	"context"
	"errors"
	"io"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"testing"
	"time"

	apiremote "k8s.io/apimachinery/pkg/util/remotecommand"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/portforward"
	"k8s.io/client-go/tools/remotecommand"
	"k8s.io/client-go/transport/spdy"
	utilexec "k8s.io/client-go/util/exec"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/reevehq/reeve/internal/testenv"
)

// executors are both protocols that kubectl and crictl speak.
func executors(t *testing.T, raw string) map[string]func() remotecommand.Executor {
	t.Helper()
	u, err := url.Parse(raw)
	if err != nil {
		t.Fatal(err)
	}
	return map[string]func() remotecommand.Executor{
		"SPDY": func() remotecommand.Executor {
			e, err := remotecommand.NewSPDYExecutor(&rest.Config{}, "POST", u)
			if err != nil {
				t.Fatal(err)
			}
			return e
		},
		"WebSocket": func() remotecommand.Executor {
			// Version 5 of the protocol, with half-closed streams, ends at the API server, which speaks SPDY to us.
			e, err := remotecommand.NewWebSocketExecutorForProtocols(&rest.Config{}, "GET", raw, apiremote.StreamProtocolV4Name)
			if err != nil {
				t.Fatal(err)
			}
			return e
		},
	}
}

func TestExecStreams(t *testing.T) {
	g := newRig(t)
	ctx := t.Context()
	sb := g.sandbox("web")
	id := g.run(sb, containerConfig("c", nil, "sleep", "1000"))
	exec := func(proto string, req *runtimeapi.ExecRequest, o remotecommand.StreamOptions) error {
		t.Helper()
		req.ContainerId = id
		resp, err := g.Exec(ctx, req)
		if err != nil {
			t.Fatal(err)
		}
		if !strings.HasPrefix(resp.Url, "http://127.0.0.1:") {
			t.Errorf("URL %q is not on loopback", resp.Url)
		}
		cctx, cancel := context.WithTimeout(ctx, time.Minute)
		defer cancel()
		err = executors(t, resp.Url)[proto]().StreamWithContext(cctx, o)
		if again := executors(t, resp.Url)[proto]().StreamWithContext(cctx, o); again == nil {
			t.Error("a URL worked twice")
		}
		return err
	}
	for _, proto := range []string{"SPDY", "WebSocket"} {
		t.Run(proto, func(t *testing.T) {
			var out, errOut bytes.Buffer
			big := strings.Repeat("0123456789abcdef", 64<<10) // 1 MB, both ways
			err := exec(proto, &runtimeapi.ExecRequest{Cmd: []string{"sh", "-c", "head -c 1048576; echo done >&2"}, Stdin: true, Stdout: true, Stderr: true},
				remotecommand.StreamOptions{Stdin: strings.NewReader(big), Stdout: &out, Stderr: &errOut})
			if err != nil || out.String() != big || errOut.String() != "done\n" {
				t.Errorf("cat: %d bytes, %q, %v", out.Len(), errOut.String(), err)
			}
			err = exec(proto, &runtimeapi.ExecRequest{Cmd: []string{"sh", "-c", "exit 42"}, Stdout: true}, remotecommand.StreamOptions{Stdout: io.Discard})
			var exit utilexec.CodeExitError
			if !errors.As(err, &exit) || exit.Code != 42 {
				t.Errorf("exit code: %v", err)
			}
			err = exec(proto, &runtimeapi.ExecRequest{Cmd: []string{"/no/such"}, Stdout: true}, remotecommand.StreamOptions{Stdout: io.Discard})
			if err == nil || !strings.Contains(strings.ToLower(err.Error()), "no such file") {
				t.Errorf("unknown command: %v", err)
			}
			sizes := make(sizeQueue, 1)
			sizes <- remotecommand.TerminalSize{Width: 91, Height: 27}
			if proto == "SPDY" { // only here can stdin end before the command
				out.Reset()
				err := exec(proto, &runtimeapi.ExecRequest{Cmd: []string{"cat"}, Stdin: true, Stdout: true}, remotecommand.StreamOptions{Stdin: strings.NewReader("x"), Stdout: &out})
				if err != nil || out.String() != "x" {
					t.Errorf("end of stdin: %q, %v", out.String(), err)
				}
			}
			pr, pw := io.Pipe()
			screen := &testenv.Buffer{}
			done := make(chan error, 1)
			go func() {
				done <- exec(proto, &runtimeapi.ExecRequest{Cmd: []string{"sh"}, Stdin: true, Stdout: true, Tty: true},
					remotecommand.StreamOptions{Stdin: pr, Stdout: screen, Tty: true, TerminalSizeQueue: sizes})
			}()
			go io.WriteString(pw, "while [ \"$(stty size)\" != '27 91' ]; do sleep 0.01; done; stty size; exit 3\n")
			err = <-done
			pw.Close()
			close(sizes)
			if !errors.As(err, &exit) || exit.Code != 3 || !strings.Contains(screen.String(), "\n27 91\r\n") {
				t.Errorf("terminal: %q, %v", screen.String(), err)
			}
		})
	}
}

type sizeQueue chan remotecommand.TerminalSize

func (q sizeQueue) Next() *remotecommand.TerminalSize {
	if s, ok := <-q; ok {
		return &s
	}
	return nil
}

func TestAttachStreams(t *testing.T) {
	g := newRig(t)
	ctx := t.Context()
	sb := g.sandbox("web")
	for _, proto := range []string{"SPDY", "WebSocket"} {
		t.Run(proto, func(t *testing.T) {
			id := g.run(sb, containerConfig("once-"+strings.ToLower(proto), func(c *runtimeapi.ContainerConfig) { c.Stdin, c.StdinOnce = true, true },
				"sh", "-c", "while read l; do echo got $l; done; echo end"))
			resp, err := g.Attach(ctx, &runtimeapi.AttachRequest{ContainerId: id, Stdin: true, Stdout: true, Stderr: true})
			if err != nil {
				t.Fatal(err)
			}
			var out testenv.Buffer
			pr, pw := io.Pipe()
			done := make(chan error, 1)
			e := executors(t, resp.Url)[proto]()
			go func() {
				done <- e.StreamWithContext(ctx, remotecommand.StreamOptions{Stdin: pr, Stdout: &out, Stderr: io.Discard})
			}()
			go io.WriteString(pw, "one\n")
			waitFor(t, func() bool { return strings.Contains(out.String(), "got one\n") })
			go func() { io.WriteString(pw, "two\n"); pw.Close() }()
			if proto == "WebSocket" { // whose version 4 cannot end stdin: the visitor leaves, and with it the only input
				waitFor(t, func() bool { return strings.Contains(out.String(), "got two\n") })
				if err := g.StopContainer(ctx, id, 0); err != nil {
					t.Fatal(err)
				}
				<-done
				return
			}
			if err := <-done; err != nil {
				t.Error(err)
			}
			if st := g.wait(id); st.ExitCode != 0 {
				t.Errorf("%v", st)
			}
			if want := "got one\ngot two\nend\n"; out.String() != want {
				t.Errorf("attached: %q", out.String())
			}
			if log := g.log(id); strings.Count(log, " F ") != 3 {
				t.Errorf("log beside attach: %q", log)
			}
			// An interactive shell outlives its visitors.
			shell := g.run(sb, containerConfig("shell-"+strings.ToLower(proto), func(c *runtimeapi.ContainerConfig) { c.Stdin, c.Tty = true, true }, "sh"))
			for _, word := range []string{"first", "second"} {
				resp, err := g.Attach(ctx, &runtimeapi.AttachRequest{ContainerId: shell, Stdin: true, Stdout: true, Tty: true})
				if err != nil {
					t.Fatal(err)
				}
				cctx, leave := context.WithCancel(ctx)
				pr, pw := io.Pipe()
				var screen testenv.Buffer
				done := make(chan error, 1)
				e := executors(t, resp.Url)[proto]()
				go func() {
					done <- e.StreamWithContext(cctx, remotecommand.StreamOptions{Stdin: pr, Stdout: &screen, Tty: true})
				}()
				go io.WriteString(pw, "echo x"+word+"x | tr x -\n")
				waitFor(t, func() bool { return strings.Contains(screen.String(), "-"+word+"-") })
				leave()
				pw.Close()
				<-done
			}
			if st := g.status(shell); st.State != runtimeapi.ContainerState_CONTAINER_RUNNING {
				t.Errorf("the shell ended with its visitor: %v", st)
			}
		})
	}
}

func TestPortForward(t *testing.T) {
	g := newRig(t)
	ctx := t.Context()
	sb := g.sandbox("web")
	id := g.run(sb, containerConfig("c", nil, "sh", "-c", "echo -n hello from the pod > /tmp/index.html; exec httpd -f -p 127.0.0.1:8080 -h /tmp"))
	// A refused connection would make the client give up altogether.
	waitFor(t, func() bool { return strings.Contains(g.output(id, "cat", "/proc/net/tcp"), ":1F90 00000000:0000 0A") })
	resp, err := g.PortForward(ctx, &runtimeapi.PortForwardRequest{PodSandboxId: sb, Port: []int32{8080, 9999}})
	if err != nil {
		t.Fatal(err)
	}
	u, err := url.Parse(resp.Url)
	if err != nil {
		t.Fatal(err)
	}
	rt, upgrader, err := spdy.RoundTripperFor(&rest.Config{})
	if err != nil {
		t.Fatal(err)
	}
	stop, ready := make(chan struct{}), make(chan struct{})
	var errOut testenv.Buffer
	f, err := portforward.New(spdy.NewDialer(upgrader, &http.Client{Transport: rt}, "POST", u), []string{"0:8080", "0:9999"}, stop, ready, io.Discard, &errOut)
	if err != nil {
		t.Fatal(err)
	}
	done := make(chan error, 1)
	go func() { done <- f.ForwardPorts() }()
	select {
	case <-ready:
	case err := <-done:
		t.Fatal(err)
	}
	ports, err := f.GetPorts()
	if err != nil {
		t.Fatal(err)
	}
	get := func(i int) (string, error) {
		c := http.Client{Timeout: 10 * time.Second, Transport: &http.Transport{DisableKeepAlives: true}}
		resp, err := c.Get("http://127.0.0.1:" + strconv.Itoa(int(ports[i].Local)))
		if err != nil {
			return "", err
		}
		defer resp.Body.Close()
		b, err := io.ReadAll(resp.Body)
		return string(b), err
	}
	for range 3 {
		if b, err := get(0); err != nil || b != "hello from the pod" {
			t.Errorf("got %q, %v", b, err)
		}
	}
	close(stop)
	<-done
	if _, err := dialIn(ctx, mustSandbox(t, g, sb).rec.NetNS, 9999); err == nil || !strings.Contains(err.Error(), "refused") {
		t.Errorf("closed port: %v", err)
	}
}

func mustSandbox(t *testing.T, g *rig, id string) *sandbox {
	t.Helper()
	s, err := g.store.sandbox(id)
	if err != nil {
		t.Fatal(err)
	}
	return s
}
