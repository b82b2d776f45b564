package podworker

import (
	"errors"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
	v1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"

	"github.com/reevehq/reeve/agent/podworker/podstate"
)

func memory(n string) v1.ResourceList {
	return v1.ResourceList{v1.ResourceMemory: resource.MustParse(n)}
}

// sized is a container with a memory limit, that must be restarted to change it if restart is set.
func sized(name, limit string, restart bool) v1.Container {
	c := app(name)
	c.Resources.Limits = memory(limit)
	if restart {
		c.ResizePolicy = []v1.ContainerResizePolicy{{ResourceName: v1.ResourceMemory, RestartPolicy: v1.RestartContainer}}
	}
	return c
}

func TestPlanResize(t *testing.T) {
	up := []podstate.Sandbox{sb("sb", true)}
	limited := func(bytes int64) podstate.Container {
		c := ran("a", "sb", podstate.Running, 0)
		c.Resources = &podstate.Resources{MemoryLimitBytes: bytes}
		return c
	}
	figures := map[string]podstate.Resources{"a": {MemoryLimitBytes: 64 << 20}}
	for _, tc := range []struct {
		name   string
		app    v1.Container
		policy v1.RestartPolicy
		have   podstate.Container
		change func(*Observed)
		want   Actions
	}{
		{name: "as it should be", app: sized("a", "64Mi", false), have: limited(64 << 20)},
		{name: "in place", app: sized("a", "64Mi", false), have: limited(32 << 20), want: Actions{Resize: []string{"a"}, Resizing: []string{"a"}}},
		{name: "in place, where none was", app: sized("a", "64Mi", false), have: limited(-1), want: Actions{Resize: []string{"a"}, Resizing: []string{"a"}}},
		{name: "already on its way", app: sized("a", "64Mi", false), have: limited(32 << 20), change: func(o *Observed) { o.ResizeBusy = true }, want: Actions{Resizing: []string{"a"}}},
		{name: "not before its next try", app: sized("a", "64Mi", false), have: limited(32 << 20),
			change: func(o *Observed) { o.RetryAt = map[string]time.Time{opResize: at(9)} }, want: Actions{Resizing: []string{"a"}, Again: at(9)}},
		{name: "a runtime that does not tell", app: sized("a", "64Mi", false), have: ran("a", "sb", podstate.Running, 0)},
		{name: "by restart", app: sized("a", "64Mi", true), have: func() podstate.Container {
			c := limited(32 << 20)
			c.CreatedWith = &v1.ResourceRequirements{Limits: memory("32Mi")}
			return c
		}(), want: Actions{Resizing: []string{"a"}, Kill: []Kill{{Name: "a", ID: "a-id", Grace: 30 * time.Second, Reason: KillResize, Message: "Container a resize requires restart"}}}},
		{name: "created with it", app: sized("a", "64Mi", true), have: func() podstate.Container {
			c := limited(64 << 20)
			c.CreatedWith = &v1.ResourceRequirements{Limits: memory("65536Ki")}
			return c
		}()},
	} {
		t.Run(tc.name, func(t *testing.T) {
			o := ready(up, tc.have)
			if tc.change != nil {
				tc.change(&o)
			}
			got := Plan(Desired{Pod: pod(v1.RestartPolicyAlways, nil, tc.app), Figures: figures}, o, t0)
			if d := cmp.Diff(tc.want, got); d != "" {
				t.Errorf("plan differs (-want +got):\n%s", d)
			}
		})
	}
}

func TestRestartToResizeIsNoCrash(t *testing.T) {
	up := []podstate.Sandbox{sb("sb", true)}
	dead := ran("a", "sb", podstate.Exited, 137)
	dead.RestartCount, dead.CrashCount = 4, 3
	o := ready(up, dead)
	o.Excused = map[string]bool{"a-id": true}
	got := Plan(Desired{Pod: pod(v1.RestartPolicyAlways, nil, app("a"))}, o, at(1))
	if d := cmp.Diff(Actions{Start: []Start{start("a", 5, 3)}}, got); d != "" {
		t.Errorf("plan differs (-want +got):\n%s", d)
	}
}

func TestFailedResizeIsToldAndTriedAgain(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e := newEdges(t)
		e.pool.cfg.Figures = func(p *v1.Pod) map[string]podstate.Resources {
			return map[string]podstate.Resources{"a": {MemoryLimitBytes: p.Spec.Containers[0].Resources.Limits.Memory().Value()}}
		}
		e.pool.Update(pod(v1.RestartPolicyAlways, nil, sized("a", "32Mi", false)))
		time.Sleep(time.Second)
		e.mu.Lock()
		e.state.Containers[0].Resources = &podstate.Resources{MemoryLimitBytes: 32 << 20}
		e.fail["resize"] = errors.New("busy")
		e.mu.Unlock()
		e.pool.Update(pod(v1.RestartPolicyAlways, nil, sized("a", "64Mi", false)))
		e.pool.Wake("u1")
		time.Sleep(time.Second)
		if r := e.last(); !r.Resizing || r.ResizeError != "busy" {
			t.Errorf("report of a failed resize: %v %q", r.Resizing, r.ResizeError)
		}
		e.mu.Lock()
		delete(e.fail, "resize")
		e.mu.Unlock()
		time.Sleep(RetryDelay)
		if r := e.last(); r.Resizing || r.ResizeError != "" {
			t.Errorf("report after the next try: %v %q", r.Resizing, r.ResizeError)
		}
		e.expect("0s mount", "0s pull a", "0s sandbox 0", "0s start a 0", "1s resize [a]", "11s resize [a]")
	})
}

func TestConfigThatComesIsTakenAtOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e := newEdges(t)
		missing := &Reason{Waiting: Waiting{Reason: "CreateContainerConfigError", Message: `configmap "x" not found`}, OnChange: true}
		e.fail["start"] = missing
		e.pool.Update(pod(v1.RestartPolicyAlways, nil, app("a")))
		time.Sleep(3 * time.Second)
		e.mu.Lock()
		e.delay["start"] = 2 * time.Second
		e.mu.Unlock()
		e.pool.ConfigChanged("u1") // not yet what it needs
		time.Sleep(time.Second)
		e.pool.ConfigChanged("u1") // while it tries: the try may have read what was before
		e.mu.Lock()
		e.delay["start"] = 0
		e.mu.Unlock()
		time.Sleep(5 * time.Second)
		e.mu.Lock()
		delete(e.fail, "start")
		e.mu.Unlock()
		time.Sleep(7 * time.Second)
		e.expect("0s mount", "0s pull a", "0s sandbox 0", "0s start a 0", "3s pull a", "3s start a 0", "5s pull a", "5s start a 0", "15s pull a", "15s start a 0")
	})
}
