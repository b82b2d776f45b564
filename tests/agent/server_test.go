package agent

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"strings"
	"testing"
	"time"

	v1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes/scheme"
	"k8s.io/client-go/tools/portforward"
	"k8s.io/client-go/tools/remotecommand"
	"k8s.io/client-go/transport/spdy"
	"k8s.io/utils/ptr"

	"github.com/reevehq/reeve/internal/testenv"
)

// TestExec: input, both outputs apart, exit codes, over WebSocket and over SPDY.
func TestExec(t *testing.T) {
	s := open(t)
	s.pod("p", `{containers: [{name: c, command: [sleep, "1000"], env: [{name: X, value: x}], workingDir: /tmp}]}`)
	s.ready("p")
	req := s.client.CoreV1().RESTClient().Post().Namespace(s.ns).Resource("pods").Name("p").SubResource("exec").
		VersionedParams(&v1.PodExecOptions{Container: "c", Command: []string{"sh", "-c", "cat; pwd; echo $X; echo bad >&2; exit 42"}, Stdin: true, Stdout: true, Stderr: true}, scheme.ParameterCodec)
	for name, make := range map[string]func() (remotecommand.Executor, error){
		"websocket": func() (remotecommand.Executor, error) {
			return remotecommand.NewWebSocketExecutor(s.config, "GET", req.URL().String())
		},
		"spdy": func() (remotecommand.Executor, error) {
			return remotecommand.NewSPDYExecutor(s.config, "POST", req.URL())
		},
	} {
		e, err := make()
		if err != nil {
			t.Fatal(err)
		}
		var out, errs bytes.Buffer
		err = e.StreamWithContext(s.ctx(), remotecommand.StreamOptions{Stdin: strings.NewReader("in\n"), Stdout: &out, Stderr: &errs})
		if err == nil || !strings.Contains(err.Error(), "exit code 42") || out.String() != "in\n/tmp\nx\n" || errs.String() != "bad\n" {
			t.Errorf("%s: %v, out %q, err %q", name, err, out.String(), errs.String())
		}
	}
	if out, err := s.exec("p", "c", "/no/such"); err == nil {
		t.Errorf("a program that is not there: %q", out)
	}
}

// TestAttach hears a running container.
func TestAttach(t *testing.T) {
	s := open(t)
	s.pod("p", `{containers: [{name: c, stdin: true, command: [sh, -c, "while read x; do echo got $x; done; sleep 1000"]}]}`)
	s.ready("p")
	req := s.client.CoreV1().RESTClient().Post().Namespace(s.ns).Resource("pods").Name("p").SubResource("attach").
		VersionedParams(&v1.PodAttachOptions{Container: "c", Stdin: true, Stdout: true}, scheme.ParameterCodec)
	e, err := remotecommand.NewWebSocketExecutor(s.config, "GET", req.URL().String())
	if err != nil {
		t.Fatal(err)
	}
	in, feed := io.Pipe()
	out := &testenv.Buffer{}
	done := make(chan error, 1)
	go func() { done <- e.StreamWithContext(s.ctx(), remotecommand.StreamOptions{Stdin: in, Stdout: out}) }()
	go fmt.Fprintln(feed, "words")
	s.eventually("the answer", func() error {
		if got := out.String(); !strings.Contains(got, "got words") {
			return fmt.Errorf("heard %q", got)
		}
		return nil
	})
	feed.Close()
	s.delete("p", 0)
	<-done
}

// TestPortForward reaches a port of the pod through the API server.
func TestPortForward(t *testing.T) {
	s := open(t)
	s.pod("p", `{containers: [{name: c, image: `+responder+`}]}`)
	s.serving("p") // a refused connection is the end of a client's forwarding
	req := s.client.CoreV1().RESTClient().Post().Namespace(s.ns).Resource("pods").Name("p").SubResource("portforward")
	tr, up, err := spdy.RoundTripperFor(s.config)
	if err != nil {
		t.Fatal(err)
	}
	stop, ready := make(chan struct{}), make(chan struct{})
	f, err := portforward.NewOnAddresses(spdy.NewDialer(up, &http.Client{Transport: tr}, "POST", req.URL()), []string{"127.0.0.1"}, []string{"0:8080"}, stop, ready, io.Discard, io.Discard)
	if err != nil {
		t.Fatal(err)
	}
	done := make(chan error, 1)
	go func() { done <- f.ForwardPorts() }()
	defer func() { close(stop); <-done }()
	select {
	case <-ready:
	case err := <-done:
		t.Fatal(err)
	}
	ports, err := f.GetPorts()
	if err != nil {
		t.Fatal(err)
	}
	if got := s.fetch(fmt.Sprintf("http://127.0.0.1:%d/seen", ports[0].Local)); !strings.Contains(got, "/seen host=127.0.0.1") {
		t.Errorf("the answer is %q", got)
	}
}

// TestLogsOf: tail, limitBytes, since, timestamps, previous, and follow to the end.
func TestLogsOf(t *testing.T) {
	s := open(t)
	s.pod("p", `{containers: [{name: c, command: [sh, -c, "if test -e /story/second; then echo second; until test -e /story/go; do sleep 0.1; done; echo last; sleep 1000; fi; echo err >&2; sleep 1; for i in 1 2 3 4; do echo line$i; done; touch /story/second; exit 1"]}]}`)
	s.wait("p", "restarted", func(p *v1.Pod) error {
		c := status(p, "c")
		if c.State.Running == nil {
			return is("state", state(c), "running")
		}
		return is("restarts", c.RestartCount, 1)
	})
	prev := func(o *v1.PodLogOptions) { o.Previous = true }
	s.eventually("the second run's words", func() error { return is("log", s.logs("p", "c"), "second\n") })
	all := s.logs("p", "c", prev)
	if got := strings.Join(sorted(strings.Fields(all)), " "); got != "err line1 line2 line3 line4" {
		t.Errorf("previous: %q", all)
	}
	stdout := func(o *v1.PodLogOptions) { o.Stream = ptr.To(v1.LogStreamStdout) }
	if got := s.logs("p", "c", prev, func(o *v1.PodLogOptions) { o.TailLines = ptr.To[int64](2) }); got != "line3\nline4\n" {
		t.Errorf("tail 2: %q", got)
	}
	if got := s.logs("p", "c", prev, stdout, func(o *v1.PodLogOptions) { o.LimitBytes = ptr.To[int64](8) }); got != "line1\nli" {
		t.Errorf("limitBytes 8: %q", got)
	}
	stamped := s.logs("p", "c", prev, stdout, func(o *v1.PodLogOptions) { o.Timestamps = true })
	stamp, rest, _ := strings.Cut(strings.SplitN(stamped, "\n", 2)[0], " ")
	at, err := time.Parse(time.RFC3339Nano, stamp)
	if err != nil || rest != "line1" {
		t.Errorf("timestamps: %q, %v", stamped, err)
	}
	if got := s.logs("p", "c", prev, stdout, func(o *v1.PodLogOptions) { x := metav1.NewTime(at.Add(time.Hour)); o.SinceTime = &x }); got != "" {
		t.Errorf("since an hour later: %q", got)
	}
	stream, err := s.pods().GetLogs("p", &v1.PodLogOptions{Container: "c", Follow: true}).Stream(s.ctx())
	if err != nil {
		t.Fatal(err)
	}
	defer stream.Close()
	b := make([]byte, 7)
	if _, err := io.ReadFull(stream, b); err != nil || string(b) != "second\n" {
		t.Fatalf("follow begins with %q, %v", b, err)
	}
	s.write("go", "")
	if _, err := io.ReadFull(stream, b[:5]); err != nil || string(b[:5]) != "last\n" {
		t.Fatalf("follow goes on with %q, %v", b[:5], err)
	}
	s.delete("p", 1)
	if rest, err := io.ReadAll(stream); err != nil || len(rest) > 0 {
		t.Errorf("the end of the follow: %q, %v", rest, err)
	}
}

// TestNodeEndpoints: health, pods, statistics and metrics of the agent, under upstream's names.
func TestNodeEndpoints(t *testing.T) {
	s := open(t)
	s.pod("p", `{containers: [{name: c, image: `+responder+`, resources: {limits: {memory: 64Mi}}, readinessProbe: {tcpSocket: {port: 9000}, periodSeconds: 1}}]}`)
	p := s.ready("p")
	if got := s.kubelet("/healthz"); got != "ok" {
		t.Errorf("/healthz: %q", got)
	}
	if got := s.fetch("http://127.0.0.1:10248/healthz"); got != "ok" {
		t.Errorf(":10248/healthz: %q", got)
	}
	var pods v1.PodList
	if err := json.Unmarshal([]byte(s.kubelet("/pods")), &pods); err != nil {
		t.Fatal(err)
	}
	found := false
	for _, x := range pods.Items {
		found = found || x.UID == p.UID && x.Status.Phase == v1.PodRunning
	}
	if !found {
		t.Errorf("/pods lacks the pod among %d", len(pods.Items))
	}
	var config struct {
		Kubeletconfig map[string]any `json:"kubeletconfig"`
	}
	if err := json.Unmarshal([]byte(s.kubelet("/configz")), &config); err != nil || config.Kubeletconfig["maxPods"] == nil {
		t.Errorf("/configz: %v, %v", config, err)
	}
	s.eventually("the pod in /stats/summary", func() error {
		var sum struct {
			Node struct {
				NodeName string `json:"nodeName"`
				Memory   struct {
					WorkingSetBytes uint64 `json:"workingSetBytes"`
				} `json:"memory"`
				Fs struct {
					CapacityBytes uint64 `json:"capacityBytes"`
				} `json:"fs"`
			} `json:"node"`
			Pods []struct {
				PodRef struct {
					UID string `json:"uid"`
				} `json:"podRef"`
				Containers []struct {
					Name   string `json:"name"`
					Memory struct {
						WorkingSetBytes uint64 `json:"workingSetBytes"`
					} `json:"memory"`
				} `json:"containers"`
				Network struct {
					RxBytes uint64 `json:"rxBytes"`
				} `json:"network"`
			} `json:"pods"`
		}
		if err := json.Unmarshal([]byte(s.kubelet("/stats/summary")), &sum); err != nil {
			return err
		}
		if sum.Node.NodeName != "node-a" || sum.Node.Memory.WorkingSetBytes == 0 || sum.Node.Fs.CapacityBytes == 0 {
			return fmt.Errorf("node: %+v", sum.Node)
		}
		for _, x := range sum.Pods {
			if x.PodRef.UID == string(p.UID) && len(x.Containers) == 1 && x.Containers[0].Memory.WorkingSetBytes > 0 && x.Network.RxBytes > 0 {
				return nil
			}
		}
		return fmt.Errorf("not among %d pods", len(sum.Pods))
	})
	for path, names := range map[string][]string{
		"/metrics":          {"kubelet_running_pods", "kubelet_running_containers", "kubelet_runtime_operations_total", "kubelet_pleg_relist_duration_seconds_bucket", "process_resident_memory_bytes"},
		"/metrics/cadvisor": {`container_memory_working_set_bytes{`, `container_cpu_usage_seconds_total{`, "machine_cpu_cores", `pod="p"`},
		"/metrics/resource": {`container_memory_working_set_bytes{container="c",namespace="` + s.ns + `",pod="p"}`, "node_cpu_usage_seconds_total", "pod_memory_working_set_bytes"},
		"/metrics/probes":   {`prober_probe_total{container="c",namespace="` + s.ns + `",pod="p"`},
	} {
		s.eventually(path, func() error {
			got := s.kubelet(path)
			for _, n := range names {
				if !strings.Contains(got, n) {
					return fmt.Errorf("%s lacks %s", path, n)
				}
			}
			return nil
		})
	}
}
