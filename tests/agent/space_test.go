package agent

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	v1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"
	"k8s.io/utils/ptr"
	"sigs.k8s.io/yaml"

	"github.com/reevehq/reeve/tests/node"
)

// waitTimeout bounds a hang; nothing is measured by it.
const waitTimeout = 180 * time.Second

// eventTimeout is for Events, which the agent sends one by one, behind everything else that it has to say.
const eventTimeout = 2 * waitTimeout

// space is a namespace of one test, with everything that its pods ever were.
type space struct {
	*node.Node
	t      testing.TB
	client kubernetes.Interface
	config *rest.Config
	ns     string
	*record
}

// record is what the namespace's pods were and are.
type record struct {
	mu      sync.Mutex
	changed chan struct{} // closed and replaced at every change
	history map[types.UID][]*v1.Pod
	current map[string]*v1.Pod // by name
	told    map[types.UID]int  // the state of the pod that wait returned last
	events  []*v1.Event
}

// sub is the namespace for a subtest, which runs beside its siblings.
func (s *space) sub(t *testing.T) *space {
	t.Helper()
	t.Parallel()
	out := *s
	out.t = t
	return &out
}

// open makes a namespace on the shared node, and lets the test run beside the others.
func open(t *testing.T) *space {
	t.Helper()
	t.Parallel()
	return openOn(t, suite.Node(t))
}

// openOn makes a namespace on n. At the end of the test its pods are deleted without grace.
func openOn(t testing.TB, n *node.Node) *space {
	t.Helper()
	s := &space{Node: n, t: t, record: &record{changed: make(chan struct{}), history: map[types.UID][]*v1.Pod{}, current: map[string]*v1.Pod{}, told: map[types.UID]int{}}}
	s.client, s.config = connect(t, n)
	ctx, cancel := context.WithTimeout(context.Background(), waitTimeout)
	defer cancel()
	name := strings.ToLower(strings.NewReplacer("/", "-", "_", "-").Replace(t.Name()))
	ns, err := s.client.CoreV1().Namespaces().Create(ctx, &v1.Namespace{ObjectMeta: metav1.ObjectMeta{GenerateName: name[:min(len(name), 40)] + "-"}}, metav1.CreateOptions{})
	if err != nil {
		t.Fatal(err)
	}
	s.ns = ns.Name
	s.eventually("its service account", func() error {
		_, err := s.client.CoreV1().ServiceAccounts(s.ns).Get(ctx, "default", metav1.GetOptions{})
		return err
	})
	if err := os.MkdirAll(s.path(), 0o777); err != nil {
		t.Fatal(err)
	}
	if err := os.Chmod(s.path(), 0o777); err != nil {
		t.Fatal(err)
	}
	wctx, stop := context.WithCancel(context.Background())
	var watches sync.WaitGroup
	watches.Go(func() { s.watch(wctx) })
	watches.Go(func() { s.watchEvents(wctx) })
	t.Cleanup(func() {
		if t.Failed() {
			s.explain()
		}
		stop()
		watches.Wait()
		s.lawful()
		dctx, cancel := context.WithTimeout(context.Background(), waitTimeout)
		defer cancel()
		_ = s.client.CoreV1().Pods(s.ns).DeleteCollection(dctx, metav1.DeleteOptions{GracePeriodSeconds: ptr.To[int64](1)}, metav1.ListOptions{})
		_ = s.client.CoreV1().Namespaces().Delete(dctx, s.ns, metav1.DeleteOptions{})
	})
	return s
}

// path is a folder of the host that the pods of pod() and spec() see as /story.
func (s *space) path(elem ...string) string {
	return filepath.Join(append([]string{s.Dir, "story", s.ns}, elem...)...)
}

// watch keeps every state of the namespace's pods until ctx ends.
func (s *space) watch(ctx context.Context) {
	for ctx.Err() == nil {
		w, err := s.client.CoreV1().Pods(s.ns).Watch(ctx, metav1.ListOptions{})
		if err != nil {
			time.Sleep(100 * time.Millisecond)
			continue
		}
		for e := range w.ResultChan() {
			p, ok := e.Object.(*v1.Pod)
			if !ok {
				continue
			}
			s.mu.Lock()
			if e.Type == "DELETED" {
				if c := s.current[p.Name]; c != nil && c.UID == p.UID {
					delete(s.current, p.Name)
				}
			} else {
				s.history[p.UID] = append(s.history[p.UID], p)
				s.current[p.Name] = p
			}
			close(s.changed)
			s.changed = make(chan struct{})
			s.mu.Unlock()
		}
		w.Stop()
	}
}

// watchEvents keeps the namespace's Events until ctx ends.
func (s *space) watchEvents(ctx context.Context) {
	for ctx.Err() == nil {
		w, err := s.client.CoreV1().Events(s.ns).Watch(ctx, metav1.ListOptions{})
		if err != nil {
			time.Sleep(100 * time.Millisecond)
			continue
		}
		for e := range w.ResultChan() {
			if x, ok := e.Object.(*v1.Event); ok && e.Type != "DELETED" {
				s.mu.Lock()
				s.events = append(s.events, x)
				close(s.changed)
				s.changed = make(chan struct{})
				s.mu.Unlock()
			}
		}
		w.Stop()
	}
}

// spec reads a pod's spec. What is left out is for tests: the busybox image, no token, two seconds of grace, and the
// namespace's folder at /story.
func spec(t testing.TB, s *space, text string) v1.PodSpec {
	t.Helper()
	var out v1.PodSpec
	if err := yaml.UnmarshalStrict([]byte(text), &out); err != nil {
		t.Fatalf("read pod: %v\n%s", err, text)
	}
	if out.TerminationGracePeriodSeconds == nil {
		out.TerminationGracePeriodSeconds = ptr.To[int64](2)
	}
	if out.AutomountServiceAccountToken == nil {
		out.AutomountServiceAccountToken = ptr.To(false)
	}
	out.Volumes = append(out.Volumes, v1.Volume{Name: "story", VolumeSource: v1.VolumeSource{HostPath: &v1.HostPathVolumeSource{Path: s.path()}}})
	for _, list := range [][]v1.Container{out.InitContainers, out.Containers} {
		for i := range list {
			c := &list[i]
			if c.Image == "" {
				c.Image = node.BusyboxImage
			}
			if c.ImagePullPolicy == "" {
				c.ImagePullPolicy = v1.PullNever
			}
			c.VolumeMounts = append(c.VolumeMounts, v1.VolumeMount{Name: "story", MountPath: "/story"})
		}
	}
	return out
}

// pod creates a pod of spec's text.
func (s *space) pod(name, text string, change ...func(*v1.Pod)) *v1.Pod {
	s.t.Helper()
	p, err := s.try(name, text, change...)
	if err != nil {
		s.t.Fatalf("create pod %s: %v", name, err)
	}
	return p
}

// try is pod for those that may be refused.
func (s *space) try(name, text string, change ...func(*v1.Pod)) (*v1.Pod, error) {
	s.t.Helper()
	p := &v1.Pod{ObjectMeta: metav1.ObjectMeta{Name: name}, Spec: spec(s.t, s, text)}
	for _, f := range change {
		f(p)
	}
	return s.pods().Create(s.ctx(), p, metav1.CreateOptions{})
}

func (s *space) pods() podClient { return s.client.CoreV1().Pods(s.ns) }

// ctx bounds one request.
func (s *space) ctx() context.Context {
	ctx, cancel := context.WithTimeout(context.Background(), waitTimeout)
	s.t.Cleanup(cancel)
	return ctx
}

// wait waits until the pod called name is as ok wants it, and returns it as it was then. ok says what is still missing.
// A pod's story is told forwards: what lies before the state that the last wait returned does not count any more.
func (s *space) wait(name, what string, ok func(*v1.Pod) error) *v1.Pod {
	s.t.Helper()
	deadline := time.After(waitTimeout)
	seen := 0
	var uid types.UID
	last := error(fmt.Errorf("there is no such pod"))
	for {
		s.mu.Lock()
		changed := s.changed
		p := s.current[name]
		var list []*v1.Pod
		if p != nil {
			if p.UID != uid {
				uid, seen = p.UID, s.told[p.UID]
			}
			// Every state counts, also one that was overtaken before this look.
			list = s.history[uid][seen:]
			seen = len(s.history[uid])
		}
		s.mu.Unlock()
		for i, p := range list {
			if last = ok(p); last == nil {
				s.mu.Lock()
				s.told[uid] = seen - len(list) + i
				s.mu.Unlock()
				return p
			}
		}
		select {
		case <-changed:
		case <-deadline:
			s.t.Fatalf("pod %s did not come to be %s: %v", name, what, last)
		}
	}
}

// now returns the pod as it is.
func (s *space) now(name string) *v1.Pod {
	s.t.Helper()
	p, err := s.pods().Get(s.ctx(), name, metav1.GetOptions{})
	if err != nil {
		s.t.Fatal(err)
	}
	return p
}

// past returns every state that the pod was seen in.
func (s *space) past(uid types.UID) []*v1.Pod {
	s.mu.Lock()
	defer s.mu.Unlock()
	return append([]*v1.Pod(nil), s.history[uid]...)
}

// running waits for a Running pod.
func (s *space) running(name string) *v1.Pod {
	s.t.Helper()
	return s.wait(name, "Running", func(p *v1.Pod) error { return is("phase", p.Status.Phase, v1.PodRunning) })
}

// ready waits for a Ready pod.
func (s *space) ready(name string) *v1.Pod {
	s.t.Helper()
	return s.wait(name, "Ready", func(p *v1.Pod) error { return condition(p, v1.PodReady, v1.ConditionTrue, "") })
}

// ended waits for a pod that is Succeeded or Failed, whichever is wanted.
func (s *space) ended(name string, phase v1.PodPhase) *v1.Pod {
	s.t.Helper()
	return s.wait(name, string(phase), func(p *v1.Pod) error { return is("phase", p.Status.Phase, phase) })
}

// delete asks for the pod's end, with its own grace or the one given in seconds.
func (s *space) delete(name string, grace ...int64) {
	s.t.Helper()
	var o metav1.DeleteOptions
	if len(grace) > 0 {
		o.GracePeriodSeconds = &grace[0]
	}
	if err := s.pods().Delete(s.ctx(), name, o); err != nil {
		s.t.Fatal(err)
	}
}

// gone waits until the pod's object is gone.
func (s *space) gone(name string) {
	s.t.Helper()
	s.eventually("pod "+name+" to be gone", func() error {
		_, err := s.pods().Get(s.ctx(), name, metav1.GetOptions{})
		if apierrors.IsNotFound(err) {
			return nil
		}
		return fmt.Errorf("it is there (%v)", err)
	})
}

// eventually asks again until f answers nil.
func (s *space) eventually(what string, f func() error) {
	s.t.Helper()
	deadline := time.Now().Add(waitTimeout)
	for {
		err := f()
		if err == nil {
			return
		}
		if time.Now().After(deadline) {
			s.t.Fatalf("%s: still not after %s: %v", what, waitTimeout, err)
		}
		time.Sleep(100 * time.Millisecond)
	}
}

// story returns the words that containers appended to /story/log, in their order.
func (s *space) story() []string { return strings.Fields(s.read("log")) }

// event waits for an Event about the pod with the reason, whose message contains text.
func (s *space) event(pod, reason, text string) {
	s.t.Helper()
	deadline := time.After(eventTimeout)
	for {
		s.mu.Lock()
		changed := s.changed
		var seen []string
		for _, e := range s.events {
			if e.InvolvedObject.Name != pod {
				continue
			}
			if e.Reason == reason && strings.Contains(e.Message, text) {
				s.mu.Unlock()
				return
			}
			seen = append(seen, e.Reason+": "+e.Message)
		}
		s.mu.Unlock()
		select {
		case <-changed:
		case <-deadline:
			s.t.Fatalf("pod %s: no Event %s …%s… after %s; Events are %q", pod, reason, text, eventTimeout, seen)
		}
	}
}

// explain prints what became of the pods of a failed test.
func (s *space) explain() {
	ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
	defer cancel()
	if list, err := s.pods().List(ctx, metav1.ListOptions{}); err == nil {
		for i := range list.Items {
			b, _ := yaml.Marshal(list.Items[i].Status)
			s.t.Logf("pod %s:\n%s", list.Items[i].Name, b)
		}
	}
	if list, err := s.client.CoreV1().Events(s.ns).List(ctx, metav1.ListOptions{}); err == nil {
		for _, e := range list.Items {
			s.t.Logf("event %s %s %s: %s", e.InvolvedObject.Name, e.Type, e.Reason, e.Message)
		}
	}
	s.t.Logf("story: %v", s.story())
}
