package spec

import (
	"encoding/json"
	"flag"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	specs "github.com/opencontainers/runtime-spec/specs-go"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
)

var update = flag.Bool("update", false, "rewrite golden files")

func testHost(mods ...func(*Host)) *Host {
	h := &Host{
		Capabilities: CapabilitiesOf(1<<41 - 1), MinOOMScoreAdj: -1000, Swap: true, Hugetlb: true,
		SeccompDefault: func(*specs.Spec) *specs.LinuxSeccomp {
			return &specs.LinuxSeccomp{DefaultAction: specs.ActErrno}
		},
		SeccompLocalhost: func(p string) (*specs.LinuxSeccomp, error) {
			return &specs.LinuxSeccomp{DefaultAction: specs.ActLog}, nil
		},
		Devices: func() ([]specs.LinuxDevice, error) {
			return []specs.LinuxDevice{{Path: "/dev/kmsg", Type: "c", Major: 1, Minor: 11}}, nil
		},
		Device: func(h, c, _ string) ([]specs.LinuxDevice, error) {
			return []specs.LinuxDevice{{Path: c, Type: "c", Major: 10, Minor: 229}}, nil
		},
	}
	for _, mod := range mods {
		mod(h)
	}
	return h
}

func sandboxConfig() *runtimeapi.PodSandboxConfig {
	return &runtimeapi.PodSandboxConfig{
		Metadata: &runtimeapi.PodSandboxMetadata{Name: "web", Namespace: "default", Uid: "u1"}, Hostname: "web",
		Linux: &runtimeapi.LinuxPodSandboxConfig{
			CgroupParent:    "/kubepods/burstable/podu1",
			SecurityContext: &runtimeapi.LinuxSandboxSecurityContext{NamespaceOptions: &runtimeapi.NamespaceOption{Pid: runtimeapi.NamespaceMode_CONTAINER}},
			Sysctls:         map[string]string{"net.core.somaxconn": "1024"},
		},
	}
}

func input(mods ...func(*ContainerInput)) ContainerInput {
	in := ContainerInput{
		Host: testHost(), ID: "c1", SandboxID: "s1", SandboxConfig: sandboxConfig(), Namespaces: NamespacesOf(42), Hostname: "web",
		Config: &runtimeapi.ContainerConfig{
			Metadata: &runtimeapi.ContainerMetadata{Name: "main"},
			Linux: &runtimeapi.LinuxContainerConfig{
				Resources: &runtimeapi.LinuxContainerResources{CpuShares: 102, CpuQuota: 50000, CpuPeriod: 100000, MemoryLimitInBytes: 64 << 20, OomScoreAdj: 900},
				SecurityContext: &runtimeapi.LinuxContainerSecurityContext{
					NamespaceOptions: &runtimeapi.NamespaceOption{Pid: runtimeapi.NamespaceMode_CONTAINER},
					MaskedPaths:      []string{"/proc/kcore"}, ReadonlyPaths: []string{"/proc/sys"},
				},
			},
		},
		Image: Image{Ref: "app:v1", Entrypoint: []string{"/entry"}, Cmd: []string{"arg"}, Env: []string{"PATH=/bin", "A=1"}},
		Extra: []Mount{{HostPath: "/s/hosts", ContainerPath: "/etc/hosts"}, {HostPath: "/s/shm", ContainerPath: "/dev/shm"}},
	}
	for _, mod := range mods {
		mod(&in)
	}
	return in
}

// TestGolden shows whole specs; a change of one must be read in the diff.
func TestGolden(t *testing.T) {
	pause, err := Sandbox(SandboxInput{Host: testHost(), ID: "s1", Config: sandboxConfig(), NetNS: "/run/netns/s1", Command: []string{"/pause"}, UID: 65535, GID: 65535, Own: true})
	if err != nil {
		t.Fatal(err)
	}
	plain, err := Container(input())
	if err != nil {
		t.Fatal(err)
	}
	privileged, err := Container(input(func(in *ContainerInput) { in.Config.Linux.SecurityContext.Privileged = true }))
	if err != nil {
		t.Fatal(err)
	}
	for name, s := range map[string]*specs.Spec{"pause": pause, "container": plain, "privileged": privileged} {
		got, err := json.MarshalIndent(s, "", "  ")
		if err != nil {
			t.Fatal(err)
		}
		path := filepath.Join("testdata", name+".json")
		if *update {
			if err := os.WriteFile(path, append(got, '\n'), 0o644); err != nil {
				t.Fatal(err)
			}
			continue
		}
		want, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		if d := cmp.Diff(string(want), string(got)+"\n"); d != "" {
			t.Errorf("%s (rewrite with -update once understood):\n%s", name, d)
		}
	}
}

func TestCommandAndEnvironment(t *testing.T) {
	for name, tc := range map[string]struct {
		command, args []string
		want          string
	}{
		"image's own":        {nil, nil, "/entry arg"},
		"arguments replaced": {nil, []string{"x", "y"}, "/entry x y"},
		"command replaced":   {[]string{"/other"}, nil, "/other"},
		"both":               {[]string{"/other"}, []string{"x"}, "/other x"},
	} {
		s, err := Container(input(func(in *ContainerInput) { in.Config.Command, in.Config.Args = tc.command, tc.args }))
		if err != nil || strings.Join(s.Process.Args, " ") != tc.want {
			t.Errorf("%s: got %q, %v; want %q", name, s.Process.Args, err, tc.want)
		}
	}
	if _, err := Container(input(func(in *ContainerInput) { in.Image = Image{} })); err == nil || !strings.Contains(err.Error(), "no command") {
		t.Errorf("no command: %v", err)
	}
	s, err := Container(input(func(in *ContainerInput) {
		in.Config.Tty = true
		in.Config.Envs = []*runtimeapi.KeyValue{{Key: "A", Value: []byte("2")}, {Key: "HOSTNAME", Value: []byte("mine")}}
	}))
	if err != nil {
		t.Fatal(err)
	}
	if want := []string{"PATH=/bin", "TERM=xterm", "HOSTNAME=mine", "A=2"}; !slices.Equal(s.Process.Env, want) {
		t.Errorf("got %q, want %q", s.Process.Env, want)
	}
}

func TestCapabilities(t *testing.T) {
	less := testHost(func(h *Host) {
		h.Capabilities = slices.DeleteFunc(slices.Clone(h.Capabilities), func(c string) bool { return c == "CAP_SYS_RESOURCE" })
	})
	for name, tc := range map[string]struct {
		host       *Host
		add, drop  []string
		privileged bool
		n          int
		has, lacks string
	}{
		"default":                       {n: 14, has: "CAP_CHOWN", lacks: "CAP_SYS_ADMIN"},
		"drop all":                      {drop: []string{"ALL"}, n: 0},
		"drop all but one":              {drop: []string{"all"}, add: []string{"net_admin"}, n: 1, has: "CAP_NET_ADMIN"},
		"add all but one":               {add: []string{"ALL"}, drop: []string{"CAP_NET_RAW"}, n: 40, lacks: "CAP_NET_RAW"},
		"privileged":                    {privileged: true, n: 41, has: "CAP_SYS_ADMIN"},
		"privileged on a lesser host":   {host: less, privileged: true, n: 40, lacks: "CAP_SYS_RESOURCE"},
		"what the host cannot give":     {host: less, add: []string{"SYS_RESOURCE"}, n: 14, lacks: "CAP_SYS_RESOURCE"},
		"added and dropped: drop first": {add: []string{"SYS_TIME"}, drop: []string{"SYS_TIME"}, n: 15, has: "CAP_SYS_TIME"},
	} {
		h := tc.host
		if h == nil {
			h = testHost()
		}
		got, err := h.capabilities(&runtimeapi.Capability{AddCapabilities: tc.add, DropCapabilities: tc.drop}, tc.privileged)
		if err != nil {
			t.Errorf("%s: %v", name, err)
			continue
		}
		if len(got.Bounding) != tc.n || tc.has != "" && !slices.Contains(got.Effective, tc.has) || tc.lacks != "" && slices.Contains(got.Bounding, tc.lacks) {
			t.Errorf("%s: got %v", name, got.Bounding)
		}
	}
}

func TestSeccompAndApparmor(t *testing.T) {
	h := testHost()
	type profile = runtimeapi.SecurityProfile
	for name, tc := range map[string]struct {
		p          *profile
		old        string
		privileged bool
		want       specs.LinuxSeccompAction
		err        string
	}{
		"none":           {want: ""},
		"default":        {p: &profile{}, want: specs.ActErrno},
		"privileged":     {p: &profile{}, privileged: true, want: ""},
		"unconfined":     {p: &profile{ProfileType: runtimeapi.SecurityProfile_Unconfined}, want: ""},
		"localhost":      {p: &profile{ProfileType: runtimeapi.SecurityProfile_Localhost, LocalhostRef: "/p.json"}, want: specs.ActLog},
		"relative":       {p: &profile{ProfileType: runtimeapi.SecurityProfile_Localhost, LocalhostRef: "p.json"}, err: "absolute"},
		"old default":    {old: "runtime/default", want: specs.ActErrno},
		"old localhost":  {old: "localhost//p.json", want: specs.ActLog},
		"old nonsense":   {old: "x", err: "invalid"},
		"new before old": {p: &profile{ProfileType: runtimeapi.SecurityProfile_Unconfined}, old: "runtime/default", want: ""},
	} {
		got, err := h.seccomp(&specs.Spec{}, tc.p, tc.old, tc.privileged)
		if tc.err != "" {
			if err == nil || !strings.Contains(err.Error(), tc.err) {
				t.Errorf("%s: %v, want %q", name, err, tc.err)
			}
			continue
		}
		var action specs.LinuxSeccompAction
		if got != nil {
			action = got.DefaultAction
		}
		if err != nil || action != tc.want {
			t.Errorf("%s: got %q, %v; want %q", name, action, err, tc.want)
		}
	}
	if _, err := h.apparmor(&profile{ProfileType: runtimeapi.SecurityProfile_Localhost, LocalhostRef: "x"}, "", false); err == nil {
		t.Error("a profile without AppArmor was accepted")
	}
	h.AppArmor, h.AppArmorDefault = true, "reeve-default"
	for old, want := range map[string]string{"": "reeve-default", "unconfined": "", "localhost/x": "x"} {
		if got, err := h.apparmor(nil, old, false); err != nil || got != want {
			t.Errorf("AppArmor %q: got %q, %v", old, got, err)
		}
	}
	if got, _ := h.apparmor(nil, "", true); got != "" {
		t.Errorf("AppArmor of a privileged container: %q", got)
	}
}

func TestMountsAreOrderedAndChecked(t *testing.T) {
	own := []Mount{
		{HostPath: "/v/deep", ContainerPath: "/a/b/c"}, {HostPath: "/v/top", ContainerPath: "/a", ReadOnly: true},
		{HostPath: "/v/hosts", ContainerPath: "/etc/hosts"}, {HostPath: "/v/rel", ContainerPath: "rel"},
		{HostPath: "/v/shared", ContainerPath: "/sh", Propagation: runtimeapi.MountPropagation_PROPAGATION_BIDIRECTIONAL, SharedHost: true},
	}
	s, err := Container(input(func(in *ContainerInput) { in.Mounts = own }))
	if err != nil {
		t.Fatal(err)
	}
	at := map[string]int{}
	for i, m := range s.Mounts {
		if _, dup := at[m.Destination]; dup {
			t.Errorf("%s is mounted twice", m.Destination)
		}
		at[m.Destination] = i
	}
	if at["/a"] > at["/a/b/c"] || s.Mounts[at["/etc/hosts"]].Source != "/v/hosts" || s.Mounts[at["/rel"]].Source != "/v/rel" || s.Linux.RootfsPropagation != "rshared" {
		t.Errorf("mounts: %v, propagation %q", s.Mounts, s.Linux.RootfsPropagation)
	}
	for name, m := range map[string]Mount{
		"root":                      {HostPath: "/v", ContainerPath: "/"},
		"bidirectional, not shared": {HostPath: "/v", ContainerPath: "/x", Propagation: runtimeapi.MountPropagation_PROPAGATION_BIDIRECTIONAL},
		"slave, private":            {HostPath: "/v", ContainerPath: "/x", Propagation: runtimeapi.MountPropagation_PROPAGATION_HOST_TO_CONTAINER},
		"recursive and writable":    {HostPath: "/v", ContainerPath: "/x", Recursive: true},
	} {
		if _, err := Container(input(func(in *ContainerInput) { in.Mounts = []Mount{m} })); err == nil {
			t.Errorf("%s: no error", name)
		}
	}
	s, err = Container(input(func(in *ContainerInput) { in.Mounts = []Mount{{HostPath: "/dev", ContainerPath: "/dev"}} }))
	if err != nil {
		t.Fatal(err)
	}
	for _, m := range s.Mounts {
		if m.Destination == "/dev/pts" {
			t.Error("the host's /dev was mounted over")
		}
	}
}

func TestResources(t *testing.T) {
	r := &runtimeapi.LinuxContainerResources{
		MemoryLimitInBytes: 1 << 20, CpusetCpus: "0-1", Unified: map[string]string{"memory.high": "1"},
		HugepageLimits: []*runtimeapi.HugepageLimit{{PageSize: "2MB", Limit: 4}},
	}
	got := testHost().Resources(r)
	if *got.Memory.Swap != 1<<20 || got.CPU.Cpus != "0-1" || got.CPU.Shares != nil || len(got.HugepageLimits) != 1 || got.Unified != nil {
		t.Errorf("v1: %+v", got)
	}
	v2 := testHost(func(h *Host) { h.CgroupV2, h.Swap, h.Hugetlb = true, false, false }).Resources(r)
	if v2.Memory.Swap != nil || v2.Unified["memory.high"] != "1" || v2.HugepageLimits != nil {
		t.Errorf("v2: %+v", v2)
	}
	if e := testHost().Resources(nil); e.CPU != nil || e.Memory != nil {
		t.Errorf("empty: %+v", e)
	}
	for wish, want := range map[int64]int{-999: -100, 5: 5, 5000: 1000} {
		if got := testHost(func(h *Host) { h.MinOOMScoreAdj = -100 }).OOMScoreAdj(wish); got != want {
			t.Errorf("OOM score %d: got %d, want %d", wish, got, want)
		}
	}
	m := Merge(&runtimeapi.LinuxContainerResources{CpuShares: 1, MemoryLimitInBytes: 2}, &runtimeapi.LinuxContainerResources{CpuShares: 3})
	if m.CpuShares != 3 || m.MemoryLimitInBytes != 2 {
		t.Errorf("merge: %v", m)
	}
}

func TestCgroupsPath(t *testing.T) {
	moved := testHost(func(h *Host) { h.CgroupRoot = "/lab" })
	fs, sd := testHost(), testHost(func(h *Host) { h.SystemdCgroup = true })
	for _, tc := range []struct {
		h            *Host
		parent, want string
	}{
		{fs, "/kubepods/podx", "/kubepods/podx/id"}, {fs, "", "/id"}, {fs, "/", "/id"}, {moved, "", "/lab/id"}, {moved, "/a", "/a/id"},
		{sd, "kubepods-podx.slice", "kubepods-podx.slice:cri-containerd:id"},
		{sd, "/kubepods.slice/kubepods-podx.slice", "kubepods-podx.slice:cri-containerd:id"}, {sd, "", "system.slice:cri-containerd:id"},
	} {
		if got := tc.h.CgroupsPath(tc.parent, "id"); got != tc.want {
			t.Errorf("%q: got %q, want %q", tc.parent, got, tc.want)
		}
	}
}

func TestScopesHoldNoCgroupOfCruns(t *testing.T) {
	for _, systemd := range []bool{false, true} {
		s, err := Container(input(func(in *ContainerInput) { in.Host = testHost(func(h *Host) { h.SystemdCgroup = systemd }) }))
		if err != nil {
			t.Fatal(err)
		}
		if v, set := s.Annotations["run.oci.systemd.subgroup"]; v != "" || set != systemd {
			t.Errorf("systemd %v: %q, %v", systemd, v, set)
		}
	}
}

func TestNamespaces(t *testing.T) {
	paths := func(s *specs.Spec) string {
		var out []string
		for _, n := range s.Linux.Namespaces {
			out = append(out, string(n.Type)+"="+n.Path)
		}
		return strings.Join(out, " ")
	}
	with := func(o *runtimeapi.NamespaceOption, mods ...func(*ContainerInput)) ContainerInput {
		return input(append(mods, func(in *ContainerInput) { in.Config.Linux.SecurityContext.NamespaceOptions = o })...)
	}
	for name, tc := range map[string]struct {
		in   ContainerInput
		want string
	}{
		"own PID":    {input(), "mount= network=/proc/42/ns/net uts=/proc/42/ns/uts ipc=/proc/42/ns/ipc pid="},
		"pod PID":    {with(&runtimeapi.NamespaceOption{}), "mount= network=/proc/42/ns/net uts=/proc/42/ns/uts ipc=/proc/42/ns/ipc pid=/proc/42/ns/pid"},
		"all host's": {with(&runtimeapi.NamespaceOption{Network: 2, Pid: 2, Ipc: 2}), "mount="},
		"target": {with(&runtimeapi.NamespaceOption{Pid: 3, TargetId: "t"}, func(in *ContainerInput) { in.TargetPID = 77 }),
			"mount= network=/proc/42/ns/net uts=/proc/42/ns/uts ipc=/proc/42/ns/ipc pid=/proc/77/ns/pid"},
		"v2": {with(&runtimeapi.NamespaceOption{Network: 2, Pid: 2, Ipc: 2}, func(in *ContainerInput) { in.Host = testHost(func(h *Host) { h.CgroupV2 = true }) }), "mount= cgroup="},
	} {
		s, err := Container(tc.in)
		if err != nil || paths(s) != tc.want {
			t.Errorf("%s: got %v, want %q", name, err, tc.want)
		}
	}
	if _, err := Container(with(&runtimeapi.NamespaceOption{UsernsOptions: &runtimeapi.UserNamespace{}})); err == nil {
		t.Error("a user namespace was ignored")
	}
}

func TestSysctls(t *testing.T) {
	own, host := runtimeapi.NamespaceMode_POD, runtimeapi.NamespaceMode_NODE
	for _, tc := range []struct {
		key      string
		net, ipc runtimeapi.NamespaceMode
		want     string // in the error; "" for none
	}{
		{"net.core.somaxconn", own, host, ""},
		{"net/ipv4/conf/eth0.100/rp_filter", own, own, ""},
		{"kernel.shm_rmid_forced", host, own, ""},
		{"fs.mqueue.msg_max", own, own, ""},
		{"net.core.somaxconn", host, own, "shares the host's namespace"},
		{"kernel.msgmax", own, host, "shares the host's namespace"},
		{"vm.swappiness", own, own, "no namespace"},
		{"kernel.core_pattern", own, own, "no namespace"},
		{"net/../kernel/core_pattern", own, own, "not the name"},
		{"net..x", own, own, "not the name"},
		{"", own, own, "not the name"},
	} {
		c := &runtimeapi.PodSandboxConfig{Linux: &runtimeapi.LinuxPodSandboxConfig{
			Sysctls:         map[string]string{tc.key: "1"},
			SecurityContext: &runtimeapi.LinuxSandboxSecurityContext{NamespaceOptions: &runtimeapi.NamespaceOption{Network: tc.net, Ipc: tc.ipc}},
		}}
		got, err := Sysctls(c)
		switch {
		case tc.want == "" && (err != nil || got[tc.key] != "1"):
			t.Errorf("%q: %v, %v", tc.key, got, err)
		case tc.want != "" && (err == nil || !strings.Contains(err.Error(), tc.want)):
			t.Errorf("%q: %v, want %q", tc.key, err, tc.want)
		}
	}
}
