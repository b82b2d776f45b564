package arch

import (
	"strings"
	"testing"
)

// rule says what the files below a room may import of this module. The longest matching room wins. It is the table of
// docs/ARCHITECTURE.md.
type rule struct {
	room string
	may  []string // folders of the module whose packages are allowed, besides the room itself
	// never lists import-path prefixes outside the module that are refused.
	never []string
}

// heavy are the libraries that only the control plane's or kubectl's process links.
var heavy = []string{"k8s.io/apiserver/pkg/server", "go.etcd.io/etcd/server", "k8s.io/kubectl", "k8s.io/kube-aggregator", "k8s.io/apiextensions-apiserver/pkg/apiserver"}

var rules = []rule{
	{room: "cmd", may: []string{"agent", "cri", "cni", "proxy", "probes", "volumes", "systemd", "controlplane", "dns", "internal"}},
	{room: "agent", may: []string{"cri", "cni", "volumes", "probes", "systemd", "internal"}, never: heavy},
	{room: "agent/podworker", may: []string{"internal"}, never: heavy},
	{room: "cri", may: []string{"internal"}, never: heavy},
	{room: "cni", may: []string{"internal"}, never: heavy},
	{room: "volumes", may: []string{"internal"}, never: heavy},
	{room: "probes", may: []string{"internal"}, never: heavy},
	{room: "proxy", may: []string{"internal"}, never: heavy},
	{room: "proxy/plan", may: nil, never: append([]string{"os", "net/http", "os/exec", "k8s.io/client-go", "github.com/vishvananda", "github.com/coreos"}, heavy...)},
	{room: "proxy/plan/plantest", may: []string{"proxy/plan", "internal"}, never: heavy},
	{room: "proxy/iptables", may: []string{"proxy/plan", "internal"}, never: heavy},
	{room: "proxy/nftables", may: []string{"proxy/plan", "internal"}, never: heavy},
	{room: "proxy/ipvs", may: []string{"proxy/plan", "internal"}, never: heavy},
	{room: "proxy/foreign", may: []string{"proxy/plan", "internal"}, never: heavy},
	{room: "proxy/conntrack", may: []string{"proxy/plan", "internal"}, never: heavy},
	{room: "dns", may: []string{"internal"}},
	{room: "controlplane", may: []string{"internal"}},
	{room: "systemd", may: nil, never: []string{"k8s.io", "github.com/containerd"}},
	{room: "internal", may: []string{"internal"}},
	{room: "tests", may: []string{"agent", "cri", "cni", "proxy", "probes", "volumes", "systemd", "controlplane", "dns", "internal"}},
}

// everywhere is refused in every file of the module.
var everywhere = []string{"k8s.io/kubernetes"}

func under(p, room string) bool { return p == room || strings.HasPrefix(p, room+"/") }

func ruleOf(dir string) *rule {
	var best *rule
	for i := range rules {
		if under(dir, rules[i].room) && (best == nil || len(rules[i].room) > len(best.room)) {
			best = &rules[i]
		}
	}
	return best
}

// refused says why a file in dir may not import p, or "" when it may. Tests may use internal/testenv and internal
// packages everywhere, like the code beside them.
func refused(dir, p string) string {
	for _, bad := range everywhere {
		if under(p, bad) {
			return "nothing here imports " + bad
		}
	}
	r := ruleOf(dir)
	if r == nil {
		return "the folder is in no room of the table"
	}
	for _, bad := range r.never {
		if under(p, bad) {
			return "room " + r.room + " never imports " + bad
		}
	}
	local, ok := strings.CutPrefix(p, module+"/")
	if !ok || under(local, r.room) {
		return ""
	}
	for _, may := range r.may {
		if under(local, may) {
			return ""
		}
	}
	return "room " + r.room + " may know only itself and " + strings.Join(r.may, ", ")
}

func TestRoomsImportOnlyWhatTheTableAllows(t *testing.T) {
	for _, f := range goFiles(t) {
		for _, p := range f.imports {
			if f.test && strings.HasPrefix(p, module+"/internal/") {
				continue
			}
			if why := refused(f.dir, p); why != "" {
				t.Errorf("%s imports %s: %s", f.path, p, why)
			}
		}
	}
}

// The table itself is tested: a check that cannot fail is none.
func TestTheTableRefuses(t *testing.T) {
	for _, c := range []struct {
		dir, imports string
		ok           bool
	}{
		{"agent", module + "/cri", true},
		{"agent", module + "/proxy", false},
		{"agent", module + "/controlplane/pki", false},
		{"agent/podworker", module + "/cri", false},
		{"agent/podworker", module + "/agent/podworker/model", true},
		{"cri/native", module + "/cni", false},
		{"cri/native", module + "/internal/podnet", true},
		{"proxy/iptables", module + "/proxy/nftables", false},
		{"proxy/plan", "os/exec", false},
		{"proxy/foreign", module + "/proxy/iptables", false},
		{"proxy/conntrack", module + "/proxy/plan", true},
		{"controlplane/server", module + "/agent", false},
		{"internal/podnet", module + "/cri", false},
		{"agent", "k8s.io/apiserver/pkg/server/options", false},
		{"cmd/reeve", "k8s.io/kubernetes/pkg/kubelet", false},
		{"elsewhere", "fmt", false},
	} {
		if why := refused(c.dir, c.imports); (why == "") != c.ok {
			t.Errorf("%s imports %s: got %q, want allowed=%v", c.dir, c.imports, why, c.ok)
		}
	}
}
