package probes

import (
	"errors"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/prometheus/client_golang/prometheus"
	"go.uber.org/goleak"
	corev1 "k8s.io/api/core/v1"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// The startup probe holds the others back; they begin at once when it succeeds; it is never asked again.
func TestStartupGates(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		begun := time.Now()
		w := newWorld(t, func(port, n int) (answer, error) {
			if port == startupPort && time.Since(begun) < 4*time.Second {
				return bad()
			}
			return good()
		})
		p := pod(corev1.Container{StartupProbe: probe(startupPort, 0, 2, 1, 10), LivenessProbe: probe(livenessPort, 0, 5, 1, 3), ReadinessProbe: probe(readinessPort, 0, 3, 1, 3)})
		w.m.SetPod(p, running("a"))
		c := &p.Spec.Containers[0]
		time.Sleep(3 * time.Second)
		if started, ready := w.m.ContainerStatus(c, "a"); started || ready {
			t.Errorf("before startup: started %v, ready %v", started, ready)
		}
		time.Sleep(8 * time.Second)
		synctest.Wait()
		if started, ready := w.m.ContainerStatus(c, "a"); !started || !ready {
			t.Errorf("after startup: started %v, ready %v", started, ready)
		}
		for port, want := range map[int][]time.Duration{startupPort: seconds(0, .1, .3, .7, 1.5, 2, 4), livenessPort: seconds(4, 9), readinessPort: seconds(4, 7, 10)} {
			if d := cmp.Diff(want, w.asked(port)); d != "" {
				t.Errorf("port %d asked at (-want +got):\n%s", port, d)
			}
		}
		if d := cmp.Diff([]string{"a Startup successful", "a Readiness successful"}, w.told()); d != "" {
			t.Errorf("told (-want +got):\n%s", d)
		}
	})
}

// Liveness fails after its threshold, counted in a row, then stays quiet until a new instance runs.
func TestLivenessThreshold(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, func(_, n int) (answer, error) {
			if n == 3 { // one good answer breaks the streak
				return good()
			}
			return bad()
		})
		p := pod(corev1.Container{LivenessProbe: probe(livenessPort, 5, 2, 1, 3)})
		w.m.SetPod(p, running("a"))
		time.Sleep(14 * time.Second)
		synctest.Wait()
		if _, dead := w.m.Unhealthy("a"); dead {
			t.Error("unhealthy after two failures in a row")
		}
		time.Sleep(20 * time.Second)
		synctest.Wait()
		if typ, dead := w.m.Unhealthy("a"); !dead || typ != Liveness {
			t.Errorf("Unhealthy = %v, %v", typ, dead)
		}
		// 5 bad, 7 bad, 9 good, 11 bad, 13 bad, 15 bad: decided.
		if d := cmp.Diff(seconds(5, 7, 9, 11, 13, 15), w.asked(livenessPort)); d != "" {
			t.Errorf("asked at (-want +got):\n%s", d)
		}
		w.m.SetPod(p, running("b"))
		time.Sleep(6 * time.Second)
		synctest.Wait()
		if _, dead := w.m.Unhealthy("b"); dead {
			t.Error("the new instance inherited the old one's verdict")
		}
		if got := w.asked(livenessPort); len(got) != 7 || got[6] != 39*time.Second {
			t.Errorf("the new instance was asked at %v, want once more at 39 s", got)
		}
		if _, known := w.m.Result("a", Liveness); known {
			t.Error("the replaced instance is remembered")
		}
	})
}

// What has just been started is asked again soon, over the network: a success counts, a failure does not.
func TestEarlyQuestions(t *testing.T) {
	for name, tc := range map[string]struct {
		spec    corev1.Container
		serves  time.Duration // after the start
		asked   []time.Duration
		told    []string
		failed  float64 // in the metrics
		restart bool    // what was asked before is known from a checkpoint
	}{
		"readiness":       {corev1.Container{ReadinessProbe: probe(readinessPort, 0, 10, 1, 3)}, 50 * time.Millisecond, seconds(0, .1, 10), []string{"a Readiness successful"}, 1, false},
		"two successes":   {corev1.Container{ReadinessProbe: probe(readinessPort, 0, 5, 2, 3)}, 500 * time.Millisecond, seconds(0, .1, .3, .7, 5, 10), []string{"a Readiness successful"}, 1, false},
		"after a delay":   {corev1.Container{ReadinessProbe: probe(readinessPort, 2, 10, 1, 3)}, 2050 * time.Millisecond, seconds(2, 2.1, 12), []string{"a Readiness successful"}, 1, false},
		"never in time":   {corev1.Container{ReadinessProbe: probe(readinessPort, 0, 4, 1, 3)}, time.Hour, seconds(0, .1, .3, .7, 1.5, 3.1, 4, 8, 12), nil, 4, false},
		"startup":         {corev1.Container{StartupProbe: probe(startupPort, 0, 10, 1, 1)}, time.Second, seconds(0), nil, 1, false},
		"startup, second": {corev1.Container{StartupProbe: probe(startupPort, 0, 10, 1, 2)}, time.Second, seconds(0, .1, .3, .7, 1.5), []string{"a Startup successful"}, 1, false},
		"liveness":        {corev1.Container{LivenessProbe: probe(livenessPort, 0, 4, 1, 1)}, time.Second, seconds(4, 8, 12), nil, 0, false},
		"liveness, delay": {corev1.Container{LivenessProbe: probe(livenessPort, 1, 4, 1, 2)}, 2 * time.Second, seconds(1, 5, 9), nil, 1, false},
		"known already":   {corev1.Container{ReadinessProbe: probe(readinessPort, 0, 10, 1, 3)}, 50 * time.Millisecond, seconds(0, 10), []string{"a Readiness successful"}, 1, true},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				begun := time.Now()
				w := newWorld(t, func(int, int) (answer, error) {
					if time.Since(begun) < tc.serves {
						return bad()
					}
					return good()
				})
				if tc.restart {
					w.m.Seed("a", Readiness, Failure)
				}
				w.m.SetPod(pod(tc.spec), running("a"))
				time.Sleep(12500 * time.Millisecond)
				synctest.Wait()
				for _, port := range []int{startupPort, livenessPort, readinessPort} {
					if got := w.asked(port); len(got) > 0 {
						if d := cmp.Diff(tc.asked, got); d != "" {
							t.Errorf("asked at (-want +got):\n%s", d)
						}
					}
				}
				var told []string
				for _, s := range w.told() {
					if !strings.HasSuffix(s, " failed") {
						told = append(told, s)
					}
				}
				if d := cmp.Diff(tc.told, told); d != "" {
					t.Errorf("told (-want +got):\n%s", d)
				}
				if got := failures(t, w.m); got != tc.failed {
					t.Errorf("%v failures are counted, want %v", got, tc.failed)
				}
			})
		})
	}
}

func failures(t *testing.T, m *Manager) (n float64) {
	t.Helper()
	reg := prometheus.NewRegistry()
	reg.MustRegister(m.metrics.total)
	families, err := reg.Gather()
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range families {
		for _, x := range f.Metric {
			for _, l := range x.Label {
				if l.GetName() == "result" && l.GetValue() == Failure.String() {
					n += x.Counter.GetValue()
				}
			}
		}
	}
	return n
}

// Readiness begins false, follows both thresholds, and ends false with the container.
func TestReadiness(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, func(_, n int) (answer, error) {
			if n <= 4 {
				return good()
			}
			return bad()
		})
		p := pod(corev1.Container{ReadinessProbe: probe(readinessPort, 0, 1, 2, 2)})
		w.m.SetPod(p, running("a"))
		if r, ok := w.m.Result("a", Readiness); !ok || r != Failure {
			t.Errorf("at first: %v, %v", r, ok)
		}
		time.Sleep(1500 * time.Millisecond)
		if r, _ := w.m.Result("a", Readiness); r != Success {
			t.Errorf("after two good answers: %v", r)
		}
		time.Sleep(3 * time.Second) // bad at 4 only
		if r, _ := w.m.Result("a", Readiness); r != Success {
			t.Errorf("after one bad answer: %v", r)
		}
		time.Sleep(time.Second)
		if r, _ := w.m.Result("a", Readiness); r != Failure {
			t.Errorf("after two bad answers: %v", r)
		}
		w.s.mu.Lock()
		w.s.say = func(int, int) (answer, error) { return good() }
		w.s.mu.Unlock()
		time.Sleep(3 * time.Second)
		w.m.SetPod(p, PodState{IP: "10.0.0.1"})
		if d := cmp.Diff([]string{"a Readiness successful", "a Readiness failed", "a Readiness successful", "a Readiness failed"}, w.told()); d != "" {
			t.Errorf("told (-want +got):\n%s", d)
		}
	})
}

// A probe that cannot be carried out is tried three times at once and then counts for nothing.
func TestErrorsAreNoAnswers(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, func(int, int) (answer, error) { return answer{}, errors.New("no such shim") })
		p := pod(corev1.Container{LivenessProbe: probe(livenessPort, 0, 1, 1, 1)})
		w.m.SetPod(p, running("a"))
		time.Sleep(1500 * time.Millisecond)
		if _, dead := w.m.Unhealthy("a"); dead {
			t.Error("an error was taken for a failure")
		}
		if d := cmp.Diff(seconds(1, 1, 1), w.asked(livenessPort)); d != "" {
			t.Errorf("asked at (-want +got):\n%s", d)
		}
	})
}

// Slow probes do not pile up: missed beats are dropped.
func TestSlowProbesDropBeats(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, func(int, int) (answer, error) { return good() })
		w.s.takes = 2500 * time.Millisecond
		p := pod(corev1.Container{LivenessProbe: probe(livenessPort, 0, 1, 1, 1)})
		w.m.SetPod(p, running("a"))
		time.Sleep(8 * time.Second)
		if d := cmp.Diff(seconds(1, 3.5, 6), w.asked(livenessPort)); d != "" {
			t.Errorf("asked at (-want +got):\n%s", d)
		}
	})
}

// A terminating pod's startup and liveness probes end, its readiness probe goes on.
func TestTerminating(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, func(port, _ int) (answer, error) {
			if port == livenessPort {
				return bad()
			}
			return good()
		})
		p := pod(corev1.Container{LivenessProbe: probe(livenessPort, 0, 1, 1, 5), ReadinessProbe: probe(readinessPort, 0, 1, 1, 1)})
		st := running("a")
		w.m.SetPod(p, st)
		time.Sleep(2500 * time.Millisecond)
		st.Terminating = true
		w.m.SetPod(p, st)
		time.Sleep(10 * time.Second)
		if _, dead := w.m.Unhealthy("a"); dead {
			t.Error("a terminating container is to be killed by its liveness probe")
		}
		if n := len(w.asked(livenessPort)); n != 2 {
			t.Errorf("liveness was asked %d times, want 2", n)
		}
		if n := len(w.asked(readinessPort)); n < 12 {
			t.Errorf("readiness was asked %d times only", n)
		}
		w.m.RemovePod("u")
		n := len(w.asked(readinessPort))
		time.Sleep(5 * time.Second)
		if len(w.asked(readinessPort)) != n {
			t.Error("a removed pod is still probed")
		}
	})
}

// An agent that restarts forgets nothing: results, streaks and decided startups come back, nothing flips.
func TestCheckpoint(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		say := func(port, n int) (answer, error) {
			if port == livenessPort {
				return bad()
			}
			return good()
		}
		w := newWorld(t, say)
		p := pod(corev1.Container{StartupProbe: probe(startupPort, 0, 1, 1, 3), LivenessProbe: probe(livenessPort, 0, 10, 1, 3), ReadinessProbe: probe(readinessPort, 0, 10, 1, 3)})
		st := running("a")
		w.m.SetPod(p, st)
		time.Sleep(15 * time.Second) // liveness failed twice
		data := w.m.Checkpoint()
		w.m.Close()

		w2 := newWorld(t, say)
		if err := w2.m.Restore(data); err != nil {
			t.Fatal(err)
		}
		w2.m.SetPod(p, st)
		synctest.Wait()
		if started, ready := w2.m.ContainerStatus(&p.Spec.Containers[0], "a"); !started || !ready {
			t.Errorf("after the restart: started %v, ready %v", started, ready)
		}
		if got := w2.told(); len(got) != 0 {
			t.Errorf("the restart told %v", got)
		}
		time.Sleep(10 * time.Second) // jitter of at most a period
		if n := len(w2.asked(startupPort)); n != 0 {
			t.Errorf("startup was asked again %d times", n)
		}
		if _, dead := w2.m.Unhealthy("a"); !dead {
			t.Error("the streak of failures was lost")
		}
		w2.m.Retain(func(string) bool { return false })
		if _, ok := w2.m.Result("a", Readiness); !ok {
			t.Error("Retain forgot a running container")
		}
		w2.m.RemovePod("u")
		w2.m.Retain(func(string) bool { return false })
		if _, ok := w2.m.Result("a", Readiness); ok {
			t.Error("Retain kept a container that is gone")
		}
	})
	m := NewManager(Config{})
	defer m.Close()
	for _, bad := range []string{"", "{", `{"version":9}`, `{"version":1,"results":[{"containerID":"","type":0}]}`, `{"version":1,"results":[{"containerID":"a","type":7}]}`} {
		if err := m.Restore([]byte(bad)); err == nil {
			t.Errorf("checkpoint %q was accepted", bad)
		}
	}
}

// Probes of containers that ran before this process are spread over a period instead of being asked all at once.
func TestRestartSpread(t *testing.T) {
	now := time.Unix(1000, 0)
	w := &worker{spec: probe(1, 3, 10, 1, 1), container: ContainerState{StartedAt: now.Add(-time.Hour)}}
	if got := w.firstAt(now, 0.5); got != now.Add(5*time.Second) {
		t.Errorf("an old container is asked after %v", got.Sub(now))
	}
	w.container.StartedAt = now.Add(-time.Second)
	if got := w.firstAt(now, 0.5); got != now.Add(2*time.Second) {
		t.Errorf("a young container is asked after %v", got.Sub(now))
	}
	w.container.StartedAt = now.Add(-4 * time.Second)
	if got := w.firstAt(now, 0.5); got != now {
		t.Errorf("a container that is due is asked after %v", got.Sub(now))
	}
}

// A network probe waits for the pod's address.
func TestNoAddressNoProbe(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, func(int, int) (answer, error) { return good() })
		p := pod(corev1.Container{ReadinessProbe: probe(readinessPort, 0, 10, 1, 1)})
		st := running("a")
		st.IP = ""
		w.m.SetPod(p, st)
		time.Sleep(3 * time.Second)
		if n := len(w.asked(readinessPort)); n != 0 {
			t.Errorf("asked %d times without an address", n)
		}
		st.IP = "10.0.0.1"
		w.m.SetPod(p, st)
		synctest.Wait()
		if d := cmp.Diff(seconds(3), w.asked(readinessPort)); d != "" {
			t.Errorf("asked at (-want +got):\n%s", d)
		}
	})
}

// A time-out counts when it fired in time, and not when it fired much too late: then this process was not awake.
func TestStarvedTimeouts(t *testing.T) {
	for name, tc := range map[string]struct {
		takes time.Duration
		dead  bool
		asked int
	}{
		"in time":       {time.Second, true, 1},
		"much too late": {2 * time.Second, false, maxTries},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				w := newWorld(t, func(int, int) (answer, error) { return answer{result: Failure, timedOut: true}, nil })
				w.s.takes = tc.takes
				w.m.SetPod(pod(corev1.Container{LivenessProbe: probe(livenessPort, 1, 60, 1, 1)}), running("a"))
				time.Sleep(30 * time.Second)
				if _, dead := w.m.Unhealthy("a"); dead != tc.dead {
					t.Errorf("unhealthy = %v, want %v", dead, tc.dead)
				}
				if n := len(w.asked(livenessPort)); n != tc.asked {
					t.Errorf("asked %d times, want %d", n, tc.asked)
				}
			})
		})
	}
}
