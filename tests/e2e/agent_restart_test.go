package e2e

import (
	"bufio"
	"context"
	"fmt"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	v1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/watch"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/tools/clientcmd"

	"github.com/reevehq/reeve/internal/testenv"
	"github.com/reevehq/reeve/tests/node"
)

// TestAgentRestarts restarts the agent again and again, every other time by SIGKILL, under pods with probes, a Service that
// is asked all the time, writers of numbered lines and a follower of their log. The API tells nothing of it: no pod and no
// node changes readiness, no EndpointSlice is written, no container restarts; no request fails, and no line is lost,
// doubled, or missed by the follower. REEVE_LONG=1 is 20 restarts under 30 pods.
func TestAgentRestarts(t *testing.T) {
	restarts, hellos, writers := 4, 6, 2
	if testenv.Long() {
		restarts, hellos, writers = 20, 26, 4
	}
	n := story{node.New(t)}
	n.Busybox()
	n.Start()
	n.Kubectl("apply", "-f", "testdata/restarts.yaml")
	n.Kubectl("scale", "deployment/hello", fmt.Sprintf("--replicas=%d", hellos))
	n.Kubectl("scale", "statefulset/writer", fmt.Sprintf("--replicas=%d", writers))
	n.Kubectl("rollout", "status", "deployment/hello", "--timeout=180s")
	n.Kubectl("rollout", "status", "statefulset/writer", "--timeout=180s")
	url := "http://" + n.Kubectl("get", "service", "hello", "-o", "jsonpath={.spec.clusterIP}") + "/"
	node.Eventually(t, "the Service to answer", func() error { _, err := get(url); return err })
	before := n.states()

	cfg, err := clientcmd.BuildConfigFromFlags("", n.Kubeconfig())
	if err != nil {
		t.Fatal(err)
	}
	client, err := kubernetes.NewForConfig(cfg)
	if err != nil {
		t.Fatal(err)
	}
	node.Eventually(t, "every pod to be a ready endpoint", func() error {
		out, err := n.TryKubectl("", "get", "endpointslices", "-l", "kubernetes.io/service-name=hello", "-o", "jsonpath={.items[*].endpoints[*].conditions.ready}")
		if ready := strings.Count(out, "true"); err == nil && ready != hellos {
			err = fmt.Errorf("%d of %d", ready, hellos)
		}
		return err
	})
	calm := watchCalm(t, client)
	follow := startFollower(client, "writer-0")
	l := startLoad(url)
	l.progress(t, 20)
	for i := range restarts {
		old, err := n.PIDOf("agent")
		if err != nil {
			t.Fatal(err)
		}
		how := []syscall.Signal{syscall.SIGKILL, syscall.SIGTERM}[i%2]
		if err := syscall.Kill(old, how); err != nil {
			t.Fatalf("%s to the agent (%d): %v", how, old, err)
		}
		node.Eventually(t, "the agent to be started again", func() error {
			if now, err := n.PIDOf("agent"); err != nil || now == old {
				return fmt.Errorf("process %d, %v", now, err)
			}
			_, err := get("http://127.0.0.1:10248/healthz")
			return err
		})
		l.progress(t, 75+25*(i%3)) // probes fall due in between, at another moment of the agent's start each time
	}
	n.wantSame(fmt.Sprintf("after %d restarts of the agent", restarts), before)
	if t.Failed() {
		t.Log(n.Kubectl("get", "pods", "-o", `jsonpath={range .items[*]}{.metadata.name}: {.status.containerStatuses[*].lastState}{"\n"}{end}`))
	}
	lines := n.wantEveryLineOnce("writer-0", "writer")
	follow.reach(t, lines)
	follow.stop(t)
	l.stop(t)
	for i := range writers {
		t.Logf("writer-%d: %d numbered lines, each once", i, n.wantEveryLineOnce(fmt.Sprintf("writer-%d", i), "writer"))
	}
	calm.stop(t)
}

// calm watches what the API must not tell while the agent restarts.
type calm struct {
	watches []watch.Interface
	done    sync.WaitGroup

	mu      sync.Mutex
	seen    int
	told    []string
	stopped bool
}

// watchCalm starts to watch pods, nodes and EndpointSlices, from their states now.
func watchCalm(t *testing.T, client kubernetes.Interface) *calm {
	t.Helper()
	c := &calm{}
	ctx := context.Background()
	pods, err := client.CoreV1().Pods("default").List(ctx, metav1.ListOptions{})
	if err != nil {
		t.Fatal(err)
	}
	nodes, err := client.CoreV1().Nodes().List(ctx, metav1.ListOptions{})
	if err != nil {
		t.Fatal(err)
	}
	slices, err := client.DiscoveryV1().EndpointSlices("default").List(ctx, metav1.ListOptions{})
	if err != nil {
		t.Fatal(err)
	}
	was := map[string]string{}
	for _, p := range pods.Items {
		was["pod "+p.Name] = podTold(&p)
	}
	for _, o := range nodes.Items {
		was["node "+o.Name] = nodeTold(&o)
	}
	pw, err := client.CoreV1().Pods("default").Watch(ctx, metav1.ListOptions{ResourceVersion: pods.ResourceVersion})
	if err != nil {
		t.Fatal(err)
	}
	nw, err := client.CoreV1().Nodes().Watch(ctx, metav1.ListOptions{ResourceVersion: nodes.ResourceVersion})
	if err != nil {
		t.Fatal(err)
	}
	sw, err := client.DiscoveryV1().EndpointSlices("default").Watch(ctx, metav1.ListOptions{ResourceVersion: slices.ResourceVersion})
	if err != nil {
		t.Fatal(err)
	}
	c.watches = []watch.Interface{pw, nw, sw}
	for _, w := range c.watches {
		c.done.Go(func() {
			for e := range w.ResultChan() {
				c.take(e, was)
			}
		})
	}
	return c
}

func (c *calm) take(e watch.Event, was map[string]string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.stopped { // a cut watch may end with an error
		return
	}
	c.seen++
	var name, is string
	switch o := e.Object.(type) {
	case *v1.Pod:
		name, is = "pod "+o.Name, podTold(o)
	case *v1.Node:
		name, is = "node "+o.Name, nodeTold(o)
	case *discoveryv1.EndpointSlice:
		c.told = append(c.told, fmt.Sprintf("EndpointSlice %s was written: %s", o.Name, e.Type))
		return
	default:
		c.told = append(c.told, fmt.Sprintf("watch: %s %v", e.Type, e.Object))
		return
	}
	if is != was[name] || e.Type == watch.Deleted {
		c.told = append(c.told, fmt.Sprintf("%s %s: was %s, is %s", e.Type, name, was[name], is))
		was[name] = is
	}
}

// podTold and nodeTold are what of an object must stay: readiness, and what the containers are.
func podTold(p *v1.Pod) string {
	out := []string{string(p.Status.Phase)}
	for _, c := range p.Status.Conditions {
		out = append(out, fmt.Sprintf("%s=%s", c.Type, c.Status))
	}
	for _, c := range p.Status.ContainerStatuses {
		out = append(out, fmt.Sprintf("%s ready=%t started=%t restarts=%d %s", c.Name, c.Ready, c.Started != nil && *c.Started, c.RestartCount, c.ContainerID))
	}
	slices.Sort(out)
	return strings.Join(out, ", ")
}

func nodeTold(o *v1.Node) string {
	var out []string
	for _, c := range o.Status.Conditions {
		out = append(out, fmt.Sprintf("%s=%s", c.Type, c.Status))
	}
	for _, taint := range o.Spec.Taints {
		out = append(out, "taint "+taint.Key)
	}
	slices.Sort(out)
	return strings.Join(out, ", ")
}

// stop fails the test for everything that the API told.
func (c *calm) stop(t *testing.T) {
	t.Helper()
	c.mu.Lock()
	c.stopped = true
	c.mu.Unlock()
	for _, w := range c.watches {
		w.Stop()
	}
	c.done.Wait()
	for _, told := range c.told {
		t.Error(told)
	}
	t.Logf("%d watch events, %d of them told of a restart", c.seen, len(c.told))
}

// follower follows a pod's log through the API and, when the stream ends, goes on from the time of the last line it has.
type follower struct {
	cancel context.CancelFunc
	done   chan struct{}

	mu      sync.Mutex
	next    int
	streams int
	err     error
}

func startFollower(client kubernetes.Interface, pod string) *follower {
	ctx, cancel := context.WithCancel(context.Background())
	f := &follower{cancel: cancel, done: make(chan struct{})}
	go func() {
		defer close(f.done)
		var since *metav1.Time
		for ctx.Err() == nil && f.failure() == nil {
			stream, err := client.CoreV1().Pods("default").GetLogs(pod, &v1.PodLogOptions{Follow: true, Timestamps: true, SinceTime: since}).Stream(ctx)
			if err != nil {
				select { // the agent is away: ask again soon
				case <-ctx.Done():
				case <-time.After(250 * time.Millisecond):
				}
				continue
			}
			for s := bufio.NewScanner(stream); s.Scan(); {
				at, line, _ := strings.Cut(s.Text(), " ")
				if when, err := time.Parse(time.RFC3339Nano, at); err == nil {
					since = &metav1.Time{Time: when}
				}
				f.take(line)
			}
			stream.Close()
			f.mu.Lock()
			f.streams++
			f.mu.Unlock()
		}
	}()
	return f
}

func (f *follower) failure() error {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.err
}

// take checks a line against those before: sinceTime has whole seconds, so that lines come again after a reconnect.
func (f *follower) take(line string) {
	f.mu.Lock()
	defer f.mu.Unlock()
	var i int
	if _, err := fmt.Sscanf(line, "line %d", &i); err != nil {
		return // the last line of a stream that was cut
	}
	switch {
	case i == f.next:
		f.next++
	case i > f.next && f.err == nil:
		f.err = fmt.Errorf("after line %d the follower got line %d", f.next-1, i)
	}
}

// reach waits until the follower has the lines below n.
func (f *follower) reach(t *testing.T, n int) {
	t.Helper()
	node.Eventually(t, "the follower", func() error {
		f.mu.Lock()
		defer f.mu.Unlock()
		if f.next < n && f.err == nil {
			return fmt.Errorf("it has %d of %d lines", f.next, n)
		}
		return nil
	})
}

func (f *follower) stop(t *testing.T) {
	t.Helper()
	f.cancel()
	<-f.done
	if f.err != nil {
		t.Error(f.err)
	}
	t.Logf("the follower got %d lines in %d streams", f.next, f.streams)
}
