package native

import (
	"maps"
	"slices"
)

// Whether a container that ended with SIGKILL was killed for its memory is told by its cgroup's count of such kills, which
// no event has to bring. With the systemd cgroup driver that cgroup may be gone first: systemd removes a scope as soon as
// its last process has ended, and a shim that watches for the kill then misses it too. On cgroup v2 the pod's cgroup
// counts what is killed below it (memory.events in the kernel's cgroup-v2.rst), and stays. What it has counted beyond the
// containers that live, those that ended before, and an earlier sandbox of the pod, is the share of the one that ended.

// outOfMemory says whether a container that has just ended was killed for its memory, and how many kills its pod's ended
// containers account for from now on.
func (r *Runtime) outOfMemory(c *container) (killed bool, counted uint64) {
	own := r.cgroups.OOMKills(r.cgroupPath(c.rec.Cgroup))
	s, cgroup := r.countingCgroup(c)
	if cgroup == "" {
		return own != nil && *own > 0, 0
	}
	pod, living := r.killsOfPod(s, c, cgroup)
	r.store.mu.Lock()
	defer r.store.mu.Unlock()
	killed, s.oomKills = blame(own, pod, slices.Collect(maps.Values(living)), s.oomKills)
	return killed, s.oomKills
}

// countingCgroup is the pod's cgroup if it counts for containers whose own may be gone, and for no other pod's.
func (r *Runtime) countingCgroup(c *container) (*sandbox, string) {
	if !r.host.CgroupV2 || !r.host.SystemdCgroup {
		return nil, ""
	}
	r.store.mu.RLock()
	defer r.store.mu.RUnlock()
	s := r.store.sandboxes[c.rec.SandboxID]
	if s == nil {
		return nil, ""
	}
	cgroup, uid := r.podCgroup(s), s.rec.Config.M.GetMetadata().GetUid()
	for _, o := range r.store.sandboxes {
		if o.rec.Config.M.GetMetadata().GetUid() != uid && r.podCgroup(o) == cgroup {
			return nil, "" // several pods in one, as crictl's users may have it
		}
	}
	return s, cgroup
}

// killsOfPod reads the counts of a pod's cgroup and of its containers that live, without the one that has just ended, at
// one time: again if one of them was counted up between.
func (r *Runtime) killsOfPod(s *sandbox, but *container, cgroup string) (pod *uint64, living map[string]*uint64) {
	same := func(a, b *uint64) bool { return (a == nil) == (b == nil) && (a == nil || *a == *b) }
	living = r.killsOfLiving(s, but)
	for range 5 {
		pod = r.cgroups.OOMKills(cgroup)
		was := living
		if living = r.killsOfLiving(s, but); maps.EqualFunc(was, living, same) {
			break
		}
	}
	return pod, living
}

// killsOfLiving has the counts by container, nil for a container whose end was not heard of yet but whose cgroup is gone.
func (r *Runtime) killsOfLiving(s *sandbox, but *container) map[string]*uint64 {
	type living struct {
		id, cgroup string
		began      bool
	}
	var all []living
	r.store.mu.RLock()
	for _, c := range r.store.containersOfLocked(s.id) {
		if c != but && !c.settling && (c.state == stateStarting || c.state == stateRunning) {
			all = append(all, living{c.id, c.rec.Cgroup, c.state == stateRunning || c.early != nil})
		}
	}
	r.store.mu.RUnlock()
	kills := map[string]*uint64{}
	for _, l := range all {
		if n := r.cgroups.OOMKills(r.cgroupPath(l.cgroup)); n != nil || l.began {
			kills[l.id] = n
		}
	}
	return kills
}

// blame decides with the counts of the container that ended and of its pod, nil where the cgroup is gone or there is none,
// and with those of the pod's containers that live, nil where one has just ended too. before is what the pod's ended
// containers accounted for until now. As long as the share of one of them is not known, nothing more is taken as
// accounted for: two that end at once with both cgroups gone are both told as killed for memory if one was.
func blame(own, pod *uint64, living []*uint64, before uint64) (killed bool, after uint64) {
	killed = own != nil && *own > 0
	if pod == nil {
		return killed, before
	}
	before = min(before, *pod) // less only if somebody made the pod's cgroup anew
	ended, known := *pod, true
	for _, n := range living {
		if n == nil {
			known = false
			continue
		}
		ended -= min(ended, *n)
	}
	if own == nil {
		killed = ended > before
	}
	if known {
		before = max(before, ended)
	}
	return killed, before
}
