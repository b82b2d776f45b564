package agent

import (
	"context"
	"net/netip"
	"os"
	"path/filepath"
	"testing"
	"time"

	v1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/uuid"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/kubernetes/fake"
	k8stesting "k8s.io/client-go/testing"
	"k8s.io/utils/ptr"

	crifake "github.com/reevehq/reeve/cri/fake"
	"github.com/reevehq/reeve/internal/testenv"
)

// harness is an agent over the in-memory runtime and an in-memory API.
type harness struct {
	t      *testing.T
	cri    *crifake.Runtime
	api    kubernetes.Interface
	dir    string
	cancel context.CancelFunc
	done   chan error
}

func newHarness(t *testing.T) *harness {
	testenv.NeedRoot(t)
	api := fake.NewClientset()
	api.PrependReactor("create", "*", func(a k8stesting.Action) (bool, runtime.Object, error) {
		// A real API server gives UIDs.
		obj := a.(k8stesting.CreateAction).GetObject()
		if m, err := meta.Accessor(obj); err == nil && m.GetUID() == "" {
			m.SetUID(uuid.NewUUID())
		}
		return false, nil, nil
	})
	h := &harness{t: t, cri: crifake.New("localhost/app:v1"), api: api, dir: testenv.Dir(t)}
	h.start()
	t.Cleanup(h.stop)
	return h
}

func (h *harness) start() {
	ctx, cancel := context.WithCancel(context.Background())
	h.cancel, h.done = cancel, make(chan error, 1)
	static := filepath.Join(h.dir, "static")
	if err := os.MkdirAll(static, 0o755); err != nil {
		h.t.Fatal(err)
	}
	cfg := Config{
		Logger: testenv.Logger(h.t), Runtime: h.cri, Client: h.api, NodeName: "n1", NodeIPs: []netip.Addr{netip.MustParseAddr("192.0.2.1")},
		RootDir: filepath.Join(h.dir, "root"), PodLogsDir: filepath.Join(h.dir, "log", "pods"), CgroupRoot: testenv.CgroupOf(h.dir),
		StaticPodPath: static, Port: -1, HealthzPort: -1, EnforceNodeAllocatable: []string{"none"},
	}
	go func() { h.done <- Run(ctx, cfg) }()
}

func (h *harness) stop() {
	h.cancel()
	if err := <-h.done; err != nil {
		h.t.Errorf("Run = %v", err)
	}
	h.done <- nil
}

// eventually waits for cond, which says what is missing.
func (h *harness) eventually(what string, cond func() (bool, string)) {
	h.t.Helper()
	last := ""
	for deadline := time.Now().Add(20 * time.Second); time.Now().Before(deadline); time.Sleep(5 * time.Millisecond) {
		ok, why := cond()
		if ok {
			return
		}
		last = why
	}
	h.t.Fatalf("%s: not within 20 s; last: %s", what, last)
}

func (h *harness) pod(name string) *v1.Pod {
	h.t.Helper()
	p, err := h.api.CoreV1().Pods("default").Get(context.Background(), name, metav1.GetOptions{})
	if apierrors.IsNotFound(err) {
		return nil
	}
	if err != nil {
		h.t.Fatal(err)
	}
	return p
}

func (h *harness) create(p *v1.Pod) {
	h.t.Helper()
	if _, err := h.api.CoreV1().Pods(p.Namespace).Create(context.Background(), p, metav1.CreateOptions{}); err != nil {
		h.t.Fatal(err)
	}
}

func simplePod(name string) *v1.Pod {
	p := &v1.Pod{}
	p.Name, p.Namespace, p.UID = name, "default", types.UID("uid-"+name)
	p.Spec = v1.PodSpec{
		NodeName: "n1", RestartPolicy: v1.RestartPolicyAlways, TerminationGracePeriodSeconds: ptr.To[int64](30),
		Containers: []v1.Container{{Name: "app", Image: "localhost/app:v1", ImagePullPolicy: v1.PullIfNotPresent,
			TerminationMessagePath: "/dev/termination-log", TerminationMessagePolicy: v1.TerminationMessageReadFile}},
	}
	return p
}

func phase(h *harness, name string, want v1.PodPhase) func() (bool, string) {
	return func() (bool, string) {
		p := h.pod(name)
		if p == nil {
			return false, "gone"
		}
		return p.Status.Phase == want, string(p.Status.Phase) + " " + p.Status.Message
	}
}

func ready(p *v1.Pod) bool {
	for _, c := range p.Status.Conditions {
		if c.Type == v1.PodReady {
			return c.Status == v1.ConditionTrue
		}
	}
	return false
}

func TestPodRunsAndGoes(t *testing.T) {
	h := newHarness(t)
	h.create(simplePod("web"))
	h.eventually("pod runs", phase(h, "web", v1.PodRunning))
	p := h.pod("web")
	if !ready(p) || p.Status.PodIP == "" || p.Status.HostIP != "192.0.2.1" || p.Status.ContainerStatuses[0].ContainerID == "" {
		t.Errorf("status of a running pod: %+v", p.Status)
	}
	// Deleted: the API server sets a timestamp, the agent takes the pod down and removes the object.
	p.DeletionTimestamp, p.DeletionGracePeriodSeconds = ptr.To(metav1.NewTime(time.Now().Add(30*time.Second))), ptr.To[int64](30)
	if _, err := h.api.CoreV1().Pods("default").Update(context.Background(), p, metav1.UpdateOptions{}); err != nil {
		t.Fatal(err)
	}
	h.eventually("pod is gone from the API", func() (bool, string) { return h.pod("web") == nil, "there" })
	h.eventually("and from the runtime", func() (bool, string) {
		l, err := h.cri.ListPodSandbox(context.Background(), nil)
		return err == nil && len(l) == 0, "sandboxes left"
	})
}

func TestCrashIsCountedAndReported(t *testing.T) {
	h := newHarness(t)
	h.create(simplePod("web"))
	h.eventually("pod runs", phase(h, "web", v1.PodRunning))
	h.cri.Exit(h.cri.ContainerID("uid-web", "app"), 3)
	h.eventually("first restart", func() (bool, string) {
		s := h.pod("web").Status.ContainerStatuses[0]
		return s.RestartCount == 1 && s.State.Running != nil && s.LastTerminationState.Terminated != nil &&
			s.LastTerminationState.Terminated.ExitCode == 3, s.String()
	})
	h.cri.Exit(h.cri.ContainerID("uid-web", "app"), 4)
	h.eventually("then back-off", func() (bool, string) {
		s := h.pod("web").Status.ContainerStatuses[0]
		return s.State.Waiting != nil && s.State.Waiting.Reason == "CrashLoopBackOff", s.String()
	})
}

func TestNoSuchImage(t *testing.T) {
	h := newHarness(t)
	h.cri.SetPullable()
	bad := simplePod("bad")
	bad.Spec.Containers[0].Image = "registry.invalid/none:v1"
	h.create(bad)
	h.create(simplePod("good"))
	h.eventually("the neighbour runs", phase(h, "good", v1.PodRunning))
	h.eventually("the reason shows", func() (bool, string) {
		p := h.pod("bad")
		if len(p.Status.ContainerStatuses) == 0 || p.Status.ContainerStatuses[0].State.Waiting == nil {
			return false, p.Status.String()
		}
		return p.Status.ContainerStatuses[0].State.Waiting.Reason == "ImagePullBackOff", p.Status.ContainerStatuses[0].String()
	})
}

func TestRestartOfAgentChangesNothing(t *testing.T) {
	h := newHarness(t)
	p := simplePod("web")
	p.Spec.Containers[0].ReadinessProbe = &v1.Probe{
		ProbeHandler:  v1.ProbeHandler{Exec: &v1.ExecAction{Command: []string{"true"}}},
		PeriodSeconds: 1, TimeoutSeconds: 1, SuccessThreshold: 1, FailureThreshold: 3,
	}
	h.create(p)
	h.eventually("pod is ready", func() (bool, string) { return ready(h.pod("web")), "not ready" })
	id := h.cri.ContainerID("uid-web", "app")
	before := h.pod("web").Status

	h.stop()
	<-h.done
	w, err := h.api.CoreV1().Pods("default").Watch(context.Background(), metav1.ListOptions{})
	if err != nil {
		t.Fatal(err)
	}
	defer w.Stop()
	h.cri.Calls() // what follows is the new agent's
	h.start()
	h.create(simplePod("later"))
	h.eventually("the agent works again", phase(h, "later", v1.PodRunning))

	if now := h.cri.ContainerID("uid-web", "app"); now != id {
		t.Errorf("container is %s, was %s", now, id)
	}
	for _, c := range h.cri.Calls() {
		if len(c) > 4 && c[:4] == "Stop" {
			t.Errorf("the restarted agent called %s", c)
		}
	}
	for more := true; more; {
		select {
		case ev := <-w.ResultChan():
			if got := ev.Object.(*v1.Pod); got.Name == "web" && !ready(got) {
				t.Errorf("pod was reported not ready: %+v", got.Status.Conditions)
			}
		default:
			more = false
		}
	}
	if after := h.pod("web").Status; after.ContainerStatuses[0].RestartCount != before.ContainerStatuses[0].RestartCount {
		t.Errorf("restart count went from %d to %d", before.ContainerStatuses[0].RestartCount, after.ContainerStatuses[0].RestartCount)
	}
}

func TestJobPodSucceeds(t *testing.T) {
	h := newHarness(t)
	p := simplePod("job")
	p.Spec.RestartPolicy = v1.RestartPolicyNever
	h.create(p)
	h.eventually("pod runs", phase(h, "job", v1.PodRunning))
	h.cri.Exit(h.cri.ContainerID("uid-job", "app"), 0)
	h.eventually("pod succeeds", phase(h, "job", v1.PodSucceeded))
	p = h.pod("job")
	if ready(p) || p.Status.ContainerStatuses[0].State.Terminated == nil {
		t.Errorf("status of a finished pod: %+v", p.Status)
	}
}

func TestNodeTakesItsWordBack(t *testing.T) {
	h := newHarness(t)
	isReady := func() (bool, string) {
		n, err := h.api.CoreV1().Nodes().Get(context.Background(), "n1", metav1.GetOptions{})
		if err != nil {
			return false, err.Error()
		}
		for _, c := range n.Status.Conditions {
			if c.Type == v1.NodeReady {
				return c.Status == v1.ConditionTrue, string(c.Status)
			}
		}
		return false, "no condition"
	}
	h.eventually("node is ready", isReady)
	n, err := h.api.CoreV1().Nodes().Get(context.Background(), "n1", metav1.GetOptions{})
	if err != nil {
		t.Fatal(err)
	}
	for i := range n.Status.Conditions {
		n.Status.Conditions[i].Status = v1.ConditionUnknown // as the node controller does with a silent node
	}
	if _, err := h.api.CoreV1().Nodes().UpdateStatus(context.Background(), n, metav1.UpdateOptions{}); err != nil {
		t.Fatal(err)
	}
	h.eventually("node is ready again", isReady)
}

func TestTooBigPodIsRejected(t *testing.T) {
	h := newHarness(t)
	p := simplePod("huge")
	p.Spec.Containers[0].Resources.Requests = v1.ResourceList{v1.ResourceCPU: quantityOf("9999")}
	h.create(p)
	h.eventually("pod fails", phase(h, "huge", v1.PodFailed))
	if got := h.pod("huge").Status.Reason; got != "OutOfcpu" {
		t.Errorf("reason = %q, want OutOfcpu", got)
	}
}

func TestStaticPodHasMirror(t *testing.T) {
	h := newHarness(t)
	file := filepath.Join(h.dir, "static", "web.yaml")
	manifest := "apiVersion: v1\nkind: Pod\nmetadata: {name: web}\nspec: {containers: [{name: app, image: 'localhost/app:v1'}]}\n"
	if err := os.WriteFile(file, []byte(manifest), 0o644); err != nil {
		t.Fatal(err)
	}
	h.eventually("mirror runs", phase(h, "web-n1", v1.PodRunning))
	if err := h.api.CoreV1().Pods("default").Delete(context.Background(), "web-n1", metav1.DeleteOptions{}); err != nil {
		t.Fatal(err)
	}
	h.eventually("mirror is made again", phase(h, "web-n1", v1.PodRunning))
	if err := os.Remove(file); err != nil {
		t.Fatal(err)
	}
	h.eventually("mirror goes with its pod", func() (bool, string) { return h.pod("web-n1") == nil, "there" })
	h.eventually("and the containers", func() (bool, string) {
		l, err := h.cri.ListPodSandbox(context.Background(), nil)
		return err == nil && len(l) == 0, "sandboxes left"
	})
}

func quantityOf(s string) resource.Quantity { return resource.MustParse(s) }
