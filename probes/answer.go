package probes

import (
	corev1 "k8s.io/api/core/v1"
)

// started says whether the container's other probes may run: its startup probe succeeded, or there is none.
func (m *Manager) started(c *corev1.Container, containerID string) bool {
	if c.StartupProbe == nil {
		return true
	}
	r, _ := m.Result(containerID, Startup)
	return r == Success
}

// probed says whether an answer about the container instance has ever been counted, by this process or before it.
func (m *Manager) probed(containerID string, t Type) bool {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.results[resultKey{containerID, t}].Probed
}

// answer counts one answer of worker w and decides. It returns whether the worker goes on.
func (m *Manager) answer(w *worker, r Result, message string) (goOn bool) {
	m.mu.Lock()
	e := m.pods[w.pod.UID]
	if e == nil || e.workers[w.key()] != w {
		m.mu.Unlock()
		return false // stopped while the probe ran: its answer is about nothing any more
	}
	rk := resultKey{w.container.ID, w.typ}
	s := decide(m.results[rk], r, w.spec)
	changed := s.Result != m.results[rk].Result
	m.results[rk] = s
	goOn = true
	if w.typ != Readiness && s.Result == Failure || w.typ == Startup && s.Result == Success {
		// Decided for this instance.
		goOn = false
		delete(e.workers, w.key())
	}
	var wake []*worker
	if w.typ == Startup && s.Result == Success {
		for k, o := range e.workers {
			if k.container == w.name && o != w {
				wake = append(wake, o)
			}
		}
	}
	m.mu.Unlock()
	for _, o := range wake {
		o.wake()
	}
	if changed {
		m.tell([]Update{m.update(w.pod, w.name, w.container.ID, w.typ, s.Result, message)})
	}
	return goOn
}

// decide is the threshold rule: a result changes once its answer came as often in a row as the spec asks. Pure.
func decide(s state, answer Result, spec *corev1.Probe) state {
	if s.Last == answer {
		s.Run++
	} else {
		s.Last, s.Run = answer, 1
	}
	s.Probed = true
	threshold := max(spec.SuccessThreshold, 1)
	if answer == Failure {
		threshold = spec.FailureThreshold
		if threshold <= 0 {
			threshold = 3 // the API's default
		}
	}
	if s.Run >= int(threshold) {
		s.Result = answer
		s.Run = int(threshold) // a streak of days is not worth counting
	}
	return s
}

func (m *Manager) update(pod *corev1.Pod, container, id string, t Type, r Result, msg string) Update {
	return Update{PodUID: pod.UID, Namespace: pod.Namespace, Pod: pod.Name, Container: container, ContainerID: id, Type: t, Result: r, Message: msg}
}

func (m *Manager) tell(us []Update) {
	if m.cfg.OnResult == nil {
		return
	}
	for _, u := range us {
		m.cfg.OnResult(u)
	}
}
