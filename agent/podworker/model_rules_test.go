package podworker

import (
	"fmt"
	"slices"

	v1 "k8s.io/api/core/v1"

	"github.com/reevehq/reeve/agent/podworker/podspec"
	"github.com/reevehq/reeve/agent/podworker/podstate"
)

// rule is one sentence of the contract. broken returns what contradicts it, "" if nothing does.
type rule struct {
	says   string
	broken func(w *world, a Actions) string
}

var rules = []rule{
	{"nothing starts in a pod that stops or is done", func(w *world, a Actions) string {
		if (w.stop != nil || a.Done != "") && (len(a.Start) > 0 || len(a.Pull) > 0 || a.CreateSandbox) {
			return fmt.Sprintf("%+v", a)
		}
		return ""
	}},
	{"containers start in the current sandbox, which has an address", func(w *world, a Actions) string {
		cur := w.obs.State.Current()
		for _, s := range a.Start {
			if cur == nil || s.SandboxID != cur.ID || !cur.Ready || len(cur.IPs) == 0 {
				return s.Name
			}
		}
		return ""
	}},
	{"a container is not started while it runs or is being worked on", func(w *world, a Actions) string {
		for _, s := range a.Start {
			if c := w.obs.State.Latest(s.Name); c != nil && c.State == podstate.Running && c.SandboxID == s.SandboxID || w.obs.Work[s.Name] != Idle {
				return s.Name
			}
		}
		return ""
	}},
	{"each start counts one more than the one before", func(w *world, a Actions) string {
		for _, s := range a.Start {
			if last, ok := w.counts[s.Name]; ok && s.RestartCount != last+1 {
				return fmt.Sprintf("%s goes from %d to %d", s.Name, last, s.RestartCount)
			}
		}
		return ""
	}},
	{"an init container runs alone of its kind, after all before it succeeded or, sidecars, started; apps after all", func(w *world, a Actions) string {
		for _, s := range a.Start {
			if w.obs.State.LatestIn(s.Name, s.SandboxID) != nil {
				continue // a restart
			}
			for i := range w.pod.Spec.InitContainers {
				c := &w.pod.Spec.InitContainers[i]
				if c.Name == s.Name {
					break
				}
				cs := w.obs.State.LatestIn(c.Name, s.SandboxID)
				switch {
				case cs == nil:
					return fmt.Sprintf("%s before %s ever ran", s.Name, c.Name)
				case podspec.IsSidecar(c) && w.next(s.Name) == c.Name && !w.initialised() && (cs.State != podstate.Running || !w.obs.Probes[cs.ID].Started):
					return fmt.Sprintf("%s before %s had started", s.Name, c.Name)
				case !podspec.IsSidecar(c) && (cs.State != podstate.Exited || cs.ExitCode != 0):
					return fmt.Sprintf("%s before %s succeeded", s.Name, c.Name)
				}
			}
		}
		return ""
	}},
	{"an init container that succeeded is not run again in its sandbox", func(w *world, a Actions) string {
		for _, s := range a.Start {
			_, kind := podspec.Find(&w.pod.Spec, s.Name)
			if c := w.obs.State.LatestIn(s.Name, s.SandboxID); kind == podspec.KindInit && c != nil && c.State == podstate.Exited && c.ExitCode == 0 {
				return s.Name
			}
		}
		return ""
	}},
	{"a postStart hook holds back the app containers after it", func(w *world, a Actions) string {
		for _, s := range a.Start {
			if _, kind := podspec.Find(&w.pod.Spec, s.Name); kind != podspec.KindApp {
				continue
			}
			for i := range w.pod.Spec.Containers {
				c := &w.pod.Spec.Containers[i]
				if c.Name == s.Name {
					break
				}
				if c.Lifecycle != nil && (w.obs.Work[c.Name] == Starting || w.obs.Work[c.Name] == Pulling) {
					return fmt.Sprintf("%s while %s is in its hook", s.Name, c.Name)
				}
			}
		}
		return ""
	}},
	{"a dead container is restarted by its policy alone", func(w *world, a Actions) string {
		for _, s := range a.Start {
			spec, kind := podspec.Find(&w.pod.Spec, s.Name)
			prev := w.obs.State.LatestIn(s.Name, s.SandboxID)
			if prev == nil || prev.State != podstate.Exited || kind == podspec.KindSidecar {
				continue
			}
			if p := w.pod.Spec.RestartPolicy; p == v1.RestartPolicyNever || p == v1.RestartPolicyOnFailure && prev.ExitCode == 0 {
				return fmt.Sprintf("%s (%s) after %d", spec.Name, p, prev.ExitCode)
			}
		}
		return ""
	}},
	{"a crash is followed by its back-off", func(w *world, a Actions) string {
		for _, s := range a.Start {
			prev := w.obs.State.LatestIn(s.Name, s.SandboxID)
			if prev == nil || prev.State != podstate.Exited || w.obs.Excused[prev.ID] {
				continue
			}
			if delay, _ := NextCrash(prev); w.now.Before(prev.FinishedAt.Add(delay)) {
				return fmt.Sprintf("%s after %s of %s", s.Name, w.now.Sub(prev.FinishedAt), delay)
			}
		}
		return ""
	}},
	{"what fails its startup or liveness probe is killed, once", func(w *world, a Actions) string {
		if w.stop != nil || a.Done != "" {
			return ""
		}
		for _, c := range w.obs.State.Running() {
			v := w.obs.Probes[c.ID]
			asked := slices.ContainsFunc(a.Kill, func(k Kill) bool { return k.ID == c.ID })
			cur := w.obs.State.Current()
			if bad := v.LivenessFailed && cur != nil && cur.Ready && c.SandboxID == cur.ID; bad && w.obs.Work[c.Name] == Idle && !asked && w.initialised() {
				return c.Name + " lives on"
			}
			if asked && w.obs.Work[c.Name] != Idle {
				return c.Name + " twice"
			}
		}
		return ""
	}},
	{"sidecars end after all else, in reverse, until the grace has run out", func(w *world, a Actions) string {
		if w.stop == nil || !w.now.Before(w.stop.Deadline()) {
			return ""
		}
		for _, k := range a.Kill {
			if _, kind := podspec.Find(&w.pod.Spec, k.Name); kind != podspec.KindSidecar {
				continue
			}
			for _, c := range w.obs.State.Running() {
				if c.Name != k.Name && w.endsBefore(c.Name, k.Name) {
					return fmt.Sprintf("%s before %s", k.Name, c.Name)
				}
			}
		}
		return ""
	}},
	{"when the grace has run out everything is being killed", func(w *world, a Actions) string {
		if w.stop == nil || w.now.Before(w.stop.Deadline()) {
			return ""
		}
		for _, c := range w.obs.State.Running() {
			if w.obs.Work[c.Name] != Killing && !slices.ContainsFunc(a.Kill, func(k Kill) bool { return k.ID == c.ID }) {
				return c.Name
			}
		}
		return ""
	}},
	{"no kill of a stopping pod outlasts its grace by more than the least there is", func(w *world, a Actions) string {
		if w.stop == nil {
			return ""
		}
		for _, k := range a.Kill {
			if k.Grace > max(w.stop.Deadline().Sub(w.now), minGrace) {
				return fmt.Sprintf("%s gets %s", k.Name, k.Grace)
			}
		}
		return ""
	}},
	{"a sandbox is not taken from running containers, and a pod is torn only when nothing of it is left", func(w *world, a Actions) string {
		for _, id := range a.StopSandboxes {
			for _, c := range w.obs.State.Running() {
				if c.SandboxID == id {
					return fmt.Sprintf("sandbox of %s", c.Name)
				}
			}
		}
		if a.Torn && (len(w.obs.State.Running()) > 0 || w.busy()) {
			return "torn"
		}
		return ""
	}},
	{"a pod is done when its policy starts none of its containers again, and succeeded when all of them did", func(w *world, a Actions) string {
		if a.Done == "" {
			return ""
		}
		if w.pod.Spec.RestartPolicy == v1.RestartPolicyAlways {
			return "restarts always"
		}
		for _, c := range w.pod.Spec.Containers {
			cs := w.obs.State.Latest(c.Name)
			if a.Done == v1.PodSucceeded && (cs == nil || cs.State != podstate.Exited || cs.ExitCode != 0) {
				return fmt.Sprintf("succeeded without %s", c.Name)
			}
			if cs != nil && cs.State == podstate.Running {
				return fmt.Sprintf("done while %s runs", c.Name)
			}
		}
		return ""
	}},
}
