package agent

import (
	"fmt"
	"os"
	"strings"
	"testing"

	v1 "k8s.io/api/core/v1"
)

// output runs a pod to its end and returns what its container c printed.
func (s *space) output(name, text string, change ...func(*v1.Pod)) string {
	s.t.Helper()
	s.pod(name, text, change...)
	s.ended(name, v1.PodSucceeded)
	return s.logs(name, "c")
}

// TestSecurityContext reads off a container's own process what its security context makes of it.
func TestSecurityContext(t *testing.T) {
	s := open(t)
	status := func(field string) string { return `grep ^` + field + `: /proc/self/status | tr -s '\\t' ' '` }
	type asked struct{ pod, container, command, want string }
	cases := map[string]asked{
		"user and group":       {"", "runAsUser: 1001, runAsGroup: 2002", "id -u; id -g", "1001\n2002\n"},
		"the pod's user":       {"runAsUser: 1003, runAsGroup: 2004", "", "id -u; id -g", "1003\n2004\n"},
		"the container's wins": {"runAsUser: 1003", "runAsUser: 1005", "id -u", "1005\n"},
		"groups":               {"supplementalGroups: [3001, 3002], fsGroup: 3003", "runAsUser: 1001", "id -G", "0 3001 3002 3003\n"},
		"non-root":             {"runAsNonRoot: true", "runAsUser: 1001", "id -u", "1001\n"},
		"no capability":        {"", "capabilities: {drop: [ALL]}", status("CapEff"), "CapEff: 0000000000000000\n"},
		"one capability":       {"", "capabilities: {drop: [ALL], add: [NET_ADMIN]}", status("CapEff"), "CapEff: 0000000000001000\n"},
		"default capabilities": {"", "", status("CapEff"), "CapEff: 00000000a80425fb\n"},
		"no escalation":        {"", "allowPrivilegeEscalation: false", status("NoNewPrivs"), "NoNewPrivs: 1\n"},
		"escalation":           {"", "allowPrivilegeEscalation: true", status("NoNewPrivs"), "NoNewPrivs: 0\n"},
		"read-only root":       {"", "readOnlyRootFilesystem: true", "touch /x 2>/dev/null && echo wrote; touch /story/w && echo volume", "volume\n"},
		"seccomp default":      {"seccompProfile: {type: RuntimeDefault}", "", status("Seccomp"), "Seccomp: 2\n"},
		"seccomp unconfined":   {"", "seccompProfile: {type: Unconfined}", status("Seccomp"), "Seccomp: 0\n"},
		"masked paths":         {"", "", "wc -c < /proc/timer_list; echo x 2>/dev/null > /proc/sys/kernel/domainname || echo refused", "0\nrefused\n"},
		"safe sysctl":          {`sysctls: [{name: net.ipv4.ip_unprivileged_port_start, value: "77"}, {name: kernel.shm_rmid_forced, value: "1"}]`, "", "cat /proc/sys/net/ipv4/ip_unprivileged_port_start /proc/sys/kernel/shm_rmid_forced", "77\n1\n"},
		"privileged":           {"", "privileged: true", "test -e /dev/kmsg -o -e /dev/fuse -o -e /dev/tty0 && echo devices; " + status("Seccomp") + "; echo 1 > /proc/sys/net/ipv4/ip_forward && echo sysctl", "devices\nSeccomp: 0\nsysctl\n"},
	}
	// Those that differ only in their container share a pod.
	byPod := map[string][]string{}
	for name, c := range cases {
		byPod[c.pod] = append(byPod[c.pod], name)
	}
	plain := func(name string) string { return strings.ReplaceAll(strings.ReplaceAll(name, "'", ""), " ", "-") }
	for fields, names := range byPod {
		t.Run(plain(names[0]), func(t *testing.T) {
			s := s.sub(t)
			var containers []string
			for _, name := range names {
				c := cases[name]
				containers = append(containers, `{name: `+plain(name)+`, securityContext: {`+c.container+`}, command: [sh, -c, "`+c.command+`"]}`)
			}
			s.pod(plain(names[0]), `{restartPolicy: Never, securityContext: {`+fields+`}, containers: [`+strings.Join(containers, ", ")+`]}`)
			s.wait(plain(names[0]), "at its end", func(p *v1.Pod) error {
				if p.Status.Phase != v1.PodSucceeded && p.Status.Phase != v1.PodFailed {
					return is("phase", p.Status.Phase, v1.PodSucceeded)
				}
				return nil
			})
			for _, name := range names {
				if got := s.logs(plain(names[0]), plain(name)); got != cases[name].want {
					t.Errorf("%s: got %q, want %q", name, got, cases[name].want)
				}
			}
		})
	}
}

// TestSeccompLocalhost runs under a profile of the node's own, and says so where it is not there.
func TestSeccompLocalhost(t *testing.T) {
	s := open(t)
	dir := s.Dir + "/kubelet/seccomp/" + s.ns
	if err := os.MkdirAll(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	profile := `{"defaultAction": "SCMP_ACT_ALLOW", "syscalls": [{"names": ["mkdir", "mkdirat"], "action": "SCMP_ACT_ERRNO"}]}`
	if err := os.WriteFile(dir+"/no-mkdir.json", []byte(profile), 0o644); err != nil {
		t.Fatal(err)
	}
	one := func(file string) string {
		return `{restartPolicy: Never, containers: [{name: c, securityContext: {seccompProfile: {type: Localhost, localhostProfile: ` + s.ns + `/` + file + `}}, command: [sh, -c, "mkdir /tmp/d 2>/dev/null && echo made; echo ran"]}]}`
	}
	if got := s.output("p", one("no-mkdir.json")); got != "ran\n" {
		t.Errorf("under a profile without mkdir: %q", got)
	}
	s.pod("none", one("none.json"))
	s.wait("none", "refused", func(p *v1.Pod) error { return waiting(p, "c", "CreateContainerError") })
	s.event("none", "Failed", "none.json")
}

// TestNamespaces: each pod has its own network, IPC and host name, each container its own processes; the host's and each
// other's on request.
func TestNamespaces(t *testing.T) {
	s := open(t)
	own := func(ns string) string {
		to, err := os.Readlink("/proc/1/ns/" + ns)
		if err != nil {
			t.Fatal(err)
		}
		return to
	}
	print := `command: [sh, -c, "for n in net ipc pid uts; do readlink /proc/self/ns/$n; done; sleep 1000"]`
	for name, fields := range map[string]string{"plain": "", "host": "hostNetwork: true, hostIPC: true, hostPID: true, ", "shared": "shareProcessNamespace: true, "} {
		s.pod(name, `{`+fields+`containers: [{name: a, `+print+`}, {name: b, `+print+`}]}`)
	}
	ns := map[string][]string{}
	for _, name := range []string{"plain", "host", "shared"} {
		s.ready(name)
		for _, c := range []string{"a", "b"} {
			s.eventually("its namespaces", func() error {
				f := strings.Fields(s.logs(name, c))
				ns[name+c] = f
				return is("namespaces", len(f), 4)
			})
		}
	}
	for i, n := range []string{"net", "ipc", "pid", "uts"} {
		host := own(n)
		if ns["plaina"][i] == host {
			t.Errorf("%s: a plain pod shares the host's", n)
		}
		if shared := ns["plaina"][i] == ns["plainb"][i]; shared != (n != "pid") {
			t.Errorf("%s: two containers of a plain pod share it: %v", n, shared)
		}
		if n != "uts" && ns["hosta"][i] != host {
			t.Errorf("%s: %s of a pod with the host's, which is %s", n, ns["hosta"][i], host)
		}
		if ns["shareda"][i] != ns["sharedb"][i] || ns["shareda"][i] == ns["plaina"][i] {
			t.Errorf("%s: containers that share processes have %s and %s", n, ns["shareda"][i], ns["sharedb"][i])
		}
	}
	if out, err := s.exec("shared", "a", "sh", "-c", "ps; cat /proc/1/comm"); err != nil || !strings.Contains(out, "pause") {
		t.Errorf("PID 1 of shared processes: %q, %v", out, err)
	}
}

// TestRuntimeClass: the default handler by a class, with the class's overhead in the pod's cgroup; unknown classes and
// handlers do not run.
func TestRuntimeClass(t *testing.T) {
	s := open(t)
	for name, handler := range map[string]string{"-plain": "runc", "-broken": "no-such-handler"} {
		s.runtimeClass(s.ns+name, handler)
	}
	c := `containers: [{name: c, command: [sleep, "1000"], resources: {limits: {cpu: 10m, memory: 20Mi}}}]`
	s.pod("plain", `{runtimeClassName: `+s.ns+`-plain, `+c+`}`)
	p := s.ready("plain")
	if q := p.Spec.Overhead[v1.ResourceMemory]; q.Value() != 8*mi {
		t.Errorf("the pod's overhead is %v", p.Spec.Overhead)
	}
	if err := s.limited(p, "", 20, 2000, 28*mi); err != nil {
		t.Errorf("the pod's cgroup: %v", err)
	}
	s.pod("broken", `{runtimeClassName: `+s.ns+`-broken, `+c+`}`)
	s.event("broken", "FailedCreatePodSandBox", "no-such-handler")
	if err := is("phase", s.now("broken").Status.Phase, v1.PodPending); err != nil {
		t.Error(err)
	}
	if _, err := s.try("unknown", `{runtimeClassName: `+s.ns+`-unknown, `+c+`}`); err == nil {
		t.Error("a pod of an unknown class was taken")
	}
	// A class that goes while its pod is on its way.
	s.runtimeClass(s.ns+"-leaves", "runc")
	s.deleteRuntimeClass(s.ns + "-leaves")
	tries := 0
	s.eventually("a pod of a deleted class to be refused", func() error { // the API server hears of the end in its own time
		tries++
		_, err := s.try(fmt.Sprint("deleted", tries), `{runtimeClassName: `+s.ns+`-leaves, `+c+`}`)
		if err == nil || !strings.Contains(err.Error(), s.ns+"-leaves") {
			return fmt.Errorf("refused with %v", err)
		}
		return nil
	})
}
