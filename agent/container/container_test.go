package container

import (
	"net/netip"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	v1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
	"k8s.io/utils/ptr"

	"github.com/reevehq/reeve/agent/podworker/podspec"
	"github.com/reevehq/reeve/agent/podworker/podstate"
)

func testPod(cs ...v1.Container) *v1.Pod {
	p := &v1.Pod{Spec: v1.PodSpec{Containers: cs, DNSPolicy: v1.DNSClusterFirst}}
	p.Name, p.Namespace, p.UID = "web", "shop", "u1"
	return p
}

func resources(cpuReq, cpuLim, memReq, memLim string) v1.ResourceRequirements {
	r := v1.ResourceRequirements{Requests: v1.ResourceList{}, Limits: v1.ResourceList{}}
	set := func(l v1.ResourceList, n v1.ResourceName, s string) {
		if s != "" {
			l[n] = resource.MustParse(s)
		}
	}
	set(r.Requests, v1.ResourceCPU, cpuReq)
	set(r.Limits, v1.ResourceCPU, cpuLim)
	set(r.Requests, v1.ResourceMemory, memReq)
	set(r.Limits, v1.ResourceMemory, memLim)
	return r
}

func TestComputeQOS(t *testing.T) {
	for _, tc := range []struct {
		name string
		res  []v1.ResourceRequirements
		want v1.PodQOSClass
	}{
		{"nothing", []v1.ResourceRequirements{{}}, v1.PodQOSBestEffort},
		{"equal", []v1.ResourceRequirements{resources("1", "1", "1Gi", "1Gi")}, v1.PodQOSGuaranteed},
		{"request below limit", []v1.ResourceRequirements{resources("500m", "1", "1Gi", "1Gi")}, v1.PodQOSBurstable},
		{"limit of one kind", []v1.ResourceRequirements{resources("1", "1", "", "")}, v1.PodQOSBurstable},
		{"one container without", []v1.ResourceRequirements{resources("1", "1", "1Gi", "1Gi"), {}}, v1.PodQOSBurstable},
	} {
		var cs []v1.Container
		for _, r := range tc.res {
			cs = append(cs, v1.Container{Resources: r})
		}
		if got := ComputeQOS(testPod(cs...)); got != tc.want {
			t.Errorf("%s: QoS = %s, want %s", tc.name, got, tc.want)
		}
	}
}

func TestOOMScoreAdj(t *testing.T) {
	const gi = 1 << 30
	for _, tc := range []struct {
		name string
		res  v1.ResourceRequirements
		want int64
	}{
		{"best effort", v1.ResourceRequirements{}, 1000},
		{"guaranteed", resources("1", "1", "1Gi", "1Gi"), -997},
		{"an eighth of memory", resources("", "", "1Gi", ""), 875},
		{"almost all of it", resources("", "", "8Gi", ""), 3},
		{"next to nothing", resources("1m", "", "", ""), 999},
	} {
		c := v1.Container{Resources: tc.res}
		if got := OOMScoreAdj(testPod(c), &c, 8*gi); got != tc.want {
			t.Errorf("%s: oom_score_adj = %d, want %d", tc.name, got, tc.want)
		}
	}
}

// A sidecar goes no sooner than the containers it serves, and what only the pod requests counts for all of them.
func TestOOMScoreAdjOfPods(t *testing.T) {
	const gi = 1 << 30
	memory := func(q string) v1.ResourceRequirements { return resources("", "", q, "") }
	sidecar := v1.Container{Name: "s", RestartPolicy: ptr.To(v1.ContainerRestartPolicyAlways)}
	pod := testPod(v1.Container{Resources: memory("2Gi")}, v1.Container{Resources: memory("1Gi")})
	pod.Spec.InitContainers = []v1.Container{sidecar}
	for name, tc := range map[string]struct {
		request string
		want    int64
	}{"asks for nothing": {"", 875}, "asks for more": {"4Gi", 500}} {
		c := sidecar
		if tc.request != "" {
			c.Resources = memory(tc.request)
		}
		if got := OOMScoreAdj(pod, &c, 8*gi); got != tc.want {
			t.Errorf("a sidecar that %s: oom_score_adj = %d, want %d", name, got, tc.want)
		}
	}
	whole := testPod(v1.Container{Resources: memory("1Gi")}, v1.Container{})
	whole.Spec.Resources = &v1.ResourceRequirements{Requests: v1.ResourceList{v1.ResourceMemory: resource.MustParse("3Gi")}}
	for i, want := range []int64{750, 875} { // 1 Gi is left for each of two
		if got := OOMScoreAdj(whole, &whole.Spec.Containers[i], 8*gi); got != want {
			t.Errorf("container %d of a pod with memory of its own: oom_score_adj = %d, want %d", i, got, want)
		}
	}
}

func TestResources(t *testing.T) {
	c := v1.Container{Resources: resources("250m", "500m", "", "64Mi")}
	got := Resources(testPod(c), &c, 1<<33, false)
	if got.CpuShares != 256 || got.CpuQuota != 50_000 || got.CpuPeriod != 100_000 || got.MemoryLimitInBytes != 64<<20 {
		t.Errorf("resources = %+v", got)
	}
	onlyLimit := v1.Container{Resources: resources("", "2", "", "")}
	if got := Resources(testPod(onlyLimit), &onlyLimit, 1<<33, false); got.CpuShares != 2048 {
		t.Errorf("shares of a container with only a limit = %d, want 2048", got.CpuShares)
	}
	none := v1.Container{}
	if got := Resources(testPod(none), &none, 1<<33, true); got.CpuShares != 2 || got.CpuQuota != 0 || got.Unified["memory.oom.group"] != "1" {
		t.Errorf("resources of a container without any = %+v", got)
	}
}

func TestRunAsNonRoot(t *testing.T) {
	yes := ptr.To(true)
	for _, tc := range []struct {
		name string
		sc   v1.SecurityContext
		img  ImageUser
		err  string
	}{
		{"no wish", v1.SecurityContext{}, ImageUser{}, ""},
		{"user given", v1.SecurityContext{RunAsNonRoot: yes, RunAsUser: ptr.To[int64](7)}, ImageUser{}, ""},
		{"root given", v1.SecurityContext{RunAsNonRoot: yes, RunAsUser: ptr.To[int64](0)}, ImageUser{}, "breaks non-root policy"},
		{"image is root", v1.SecurityContext{RunAsNonRoot: yes}, ImageUser{}, "image will run as root"},
		{"image has a number", v1.SecurityContext{RunAsNonRoot: yes}, ImageUser{UID: ptr.To[int64](7)}, ""},
		{"image has a name", v1.SecurityContext{RunAsNonRoot: yes}, ImageUser{Name: "app"}, "non-numeric user (app)"},
	} {
		c := v1.Container{Name: "c", SecurityContext: &tc.sc}
		_, err := Config(Input{Pod: testPod(c), Container: &c, ImageUser: tc.img})
		if tc.err == "" && err != nil || tc.err != "" && (err == nil || !strings.Contains(err.Error(), tc.err)) {
			t.Errorf("%s: error %v, want %q", tc.name, err, tc.err)
		}
	}
}

func TestSecurityMerges(t *testing.T) {
	c := v1.Container{Name: "c", SecurityContext: &v1.SecurityContext{RunAsUser: ptr.To[int64](5), AllowPrivilegeEscalation: ptr.To(false),
		Capabilities: &v1.Capabilities{Drop: []v1.Capability{"ALL"}}}}
	p := testPod(c)
	p.Spec.SecurityContext = &v1.PodSecurityContext{RunAsUser: ptr.To[int64](1), RunAsGroup: ptr.To[int64](2), FSGroup: ptr.To[int64](3),
		SupplementalGroups: []int64{4}, SeccompProfile: &v1.SeccompProfile{Type: v1.SeccompProfileTypeRuntimeDefault}}
	cfg, err := Config(Input{Pod: p, Container: &c})
	if err != nil {
		t.Fatal(err)
	}
	s := cfg.Linux.SecurityContext
	if s.RunAsUser.Value != 5 || s.RunAsGroup.Value != 2 || !s.NoNewPrivs || s.Seccomp.ProfileType != runtimeapi.SecurityProfile_RuntimeDefault {
		t.Errorf("security context = %+v", s)
	}
	if d := cmp.Diff([]int64{4, 3}, s.SupplementalGroups); d != "" {
		t.Errorf("supplemental groups (-want +got):\n%s", d)
	}
	if len(s.MaskedPaths) == 0 {
		t.Error("nothing is masked")
	}
	c.SecurityContext = &v1.SecurityContext{Privileged: ptr.To(true)}
	if cfg, err = Config(Input{Pod: p, Container: &c}); err != nil {
		t.Fatal(err)
	}
	if s := cfg.Linux.SecurityContext; len(s.MaskedPaths) != 0 || s.Seccomp.ProfileType != runtimeapi.SecurityProfile_Unconfined {
		t.Errorf("privileged security context = %+v", s)
	}
}

func TestAnnotationsSurviveTheRoundTrip(t *testing.T) {
	c := v1.Container{Name: "c", Image: "img", TerminationMessagePath: "/dev/termination-log", TerminationMessagePolicy: v1.TerminationMessageFallbackToLogsOnError,
		Lifecycle: &v1.Lifecycle{PreStop: &v1.LifecycleHandler{Sleep: &v1.SleepAction{Seconds: 3}}}}
	p := testPod(c)
	p.Spec.TerminationGracePeriodSeconds = ptr.To[int64](42)
	cfg, err := Config(Input{Pod: p, Container: &c, RestartCount: 7, CrashCount: 3})
	if err != nil {
		t.Fatal(err)
	}
	var got podstate.Container
	FromAnnotations(cfg.Annotations, &got)
	if got.RestartCount != 7 || got.CrashCount != 3 || got.Hash != podspec.Hash(&c) || got.TerminationGracePeriod.Seconds() != 42 ||
		got.TerminationMessagePolicy != "FallbackToLogsOnError" {
		t.Errorf("read back: %+v", got)
	}
	h, err := PreStopFromAnnotations(cfg.Annotations)
	if err != nil || h == nil || h.Sleep.Seconds != 3 {
		t.Errorf("preStop read back: %v, %v", h, err)
	}
}

func TestCommandIsExpanded(t *testing.T) {
	c := v1.Container{Name: "c", Command: []string{"run", "$(A)", "$(NONE)", "$$(A)"}}
	cfg, err := Config(Input{Pod: testPod(c), Container: &c, Env: []*runtimeapi.KeyValue{{Key: "A", Value: []byte("1")}}})
	if err != nil {
		t.Fatal(err)
	}
	if d := cmp.Diff([]string{"run", "1", "$(NONE)", "$(A)"}, cfg.Command); d != "" {
		t.Errorf("command (-want +got):\n%s", d)
	}
}

func TestDNS(t *testing.T) {
	dns := []netip.Addr{netip.MustParseAddr("10.96.0.10")}
	host := ResolvConf{Servers: []string{"192.0.2.53"}, Searches: []string{"example.org"}, Options: []string{"rotate"}}
	for _, tc := range []struct {
		name   string
		policy v1.DNSPolicy
		net    bool
		conf   *v1.PodDNSConfig
		want   *runtimeapi.DNSConfig
	}{
		{"cluster first", v1.DNSClusterFirst, false, nil, &runtimeapi.DNSConfig{Servers: []string{"10.96.0.10"},
			Searches: []string{"shop.svc.cluster.local", "svc.cluster.local", "cluster.local", "example.org"}, Options: []string{"ndots:5"}}},
		{"cluster first on the host's network falls back", v1.DNSClusterFirst, true, nil, &runtimeapi.DNSConfig{Servers: host.Servers, Searches: host.Searches, Options: host.Options}},
		{"default", v1.DNSDefault, false, nil, &runtimeapi.DNSConfig{Servers: host.Servers, Searches: host.Searches, Options: host.Options}},
		{"none with a config", v1.DNSNone, false, &v1.PodDNSConfig{Nameservers: []string{"1.2.3.4"}, Searches: []string{"a.b"},
			Options: []v1.PodDNSConfigOption{{Name: "ndots", Value: ptr.To("2")}, {Name: "edns0"}}},
			&runtimeapi.DNSConfig{Servers: []string{"1.2.3.4"}, Searches: []string{"a.b"}, Options: []string{"ndots:2", "edns0"}}},
		{"a config replaces options", v1.DNSClusterFirst, false, &v1.PodDNSConfig{Options: []v1.PodDNSConfigOption{{Name: "ndots", Value: ptr.To("1")}}},
			&runtimeapi.DNSConfig{Servers: []string{"10.96.0.10"}, Searches: []string{"shop.svc.cluster.local", "svc.cluster.local", "cluster.local", "example.org"}, Options: []string{"ndots:1"}}},
	} {
		p := testPod()
		p.Spec.DNSPolicy, p.Spec.HostNetwork, p.Spec.DNSConfig = tc.policy, tc.net, tc.conf
		got, _ := DNS(p, dns, "cluster.local", host)
		if got.String() != tc.want.String() {
			t.Errorf("%s: %v, want %v", tc.name, got, tc.want)
		}
	}
}

func TestHostname(t *testing.T) {
	p := testPod()
	p.Name = strings.Repeat("a", 62) + "-bcd"
	if got, err := Hostname(p, "cluster.local"); err != nil || got != strings.Repeat("a", 62) {
		t.Errorf("a long name: %q, %v", got, err)
	}
	p = testPod()
	p.Spec.Hostname, p.Spec.Subdomain, p.Spec.SetHostnameAsFQDN = "h", "sub", ptr.To(true)
	if got, err := Hostname(p, "cluster.local"); err != nil || got != "h.sub.shop.svc.cluster.local" {
		t.Errorf("FQDN: %q, %v", got, err)
	}
	hosts := string(Hosts(p, []netip.Addr{netip.MustParseAddr("10.0.0.1")}, "h.sub.shop.svc.cluster.local", HostDomain(p, "cluster.local"), nil))
	if !strings.Contains(hosts, "10.0.0.1\th.sub.shop.svc.cluster.local\th\n") {
		t.Errorf("hosts file:\n%s", hosts)
	}
}

func FuzzParseResolvConf(f *testing.F) {
	f.Add("nameserver 1.1.1.1\nsearch a b\noptions ndots:5\n")
	f.Add("domain x\n; c\n#\nnameserver\n")
	f.Fuzz(func(t *testing.T, s string) {
		rc, err := ParseResolvConf(strings.NewReader(s))
		if err != nil {
			return
		}
		for _, x := range append(append(rc.Servers, rc.Searches...), rc.Options...) {
			if strings.ContainsAny(x, " \t\n#;") || x == "" {
				t.Errorf("parsed %q out of %q", x, s)
			}
		}
	})
}
