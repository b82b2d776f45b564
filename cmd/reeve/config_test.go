package main

import (
	"net/netip"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"

	"github.com/spf13/pflag"
)

func serverFlags(t *testing.T, args ...string) (*serverOptions, *pflag.FlagSet) {
	t.Helper()
	o := &serverOptions{}
	f := pflag.NewFlagSet("server", pflag.ContinueOnError)
	o.addFlags(f)
	if err := f.Parse(args); err != nil {
		t.Fatal(err)
	}
	return o, f
}

func writeFile(t *testing.T, text string) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "config.yaml")
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

func TestConfigFileSetsWhatTheCommandLineDoesNot(t *testing.T) {
	o, f := serverFlags(t, "--max-pods=7")
	path := writeFile(t, `
max-pods: 200
https-listen-port: 7443
disable-agent: true
node-labels: {disk: ssd, zone: a}
tls-san: [one.example, 192.0.2.7]
node-name: from-file
`)
	if err := loadConfigFile(f, path); err != nil {
		t.Fatal(err)
	}
	if o.Node.MaxPods != 7 {
		t.Errorf("max-pods = %d, want the command line's 7", o.Node.MaxPods)
	}
	if o.Port != 7443 || !o.DisableAgent || o.Node.NodeName != "from-file" {
		t.Errorf("port %d, disable-agent %v, node-name %q", o.Port, o.DisableAgent, o.Node.NodeName)
	}
	if want := map[string]string{"disk": "ssd", "zone": "a"}; !reflect.DeepEqual(o.Node.NodeLabels, want) {
		t.Errorf("node-labels = %v, want %v", o.Node.NodeLabels, want)
	}
	if want := []string{"one.example", "192.0.2.7"}; !reflect.DeepEqual(o.TLSSANs, want) {
		t.Errorf("tls-san = %v, want %v", o.TLSSANs, want)
	}
}

func TestConfigFileErrorsNameTheKey(t *testing.T) {
	for _, c := range []struct {
		name, text string
		want       []string
	}{
		{"unknown key", "max-pod: 3\n", []string{`"max-pod"`, "unknown key"}},
		{"not a number", "max-pods: many\n", []string{`"max-pods"`, "invalid"}},
		{"several at once", "max-pods: many\nnope: 1\n", []string{`"max-pods"`, `"nope"`}},
		{"no value", "node-name:\n", []string{`"node-name"`, "no value"}},
		{"twice", "node-name: a\nnode-name: b\n", []string{"node-name", "already"}},
		{"no mapping", "- a\n- b\n", []string{"not a YAML mapping"}},
		{"no YAML", "a: [\n", []string{"not a YAML mapping"}},
		{"itself", "config: other.yaml\n", []string{`"config"`}},
	} {
		t.Run(c.name, func(t *testing.T) {
			_, f := serverFlags(t)
			err := loadConfigFile(f, writeFile(t, c.text))
			if err == nil {
				t.Fatal("no error")
			}
			for _, want := range c.want {
				if !strings.Contains(err.Error(), want) {
					t.Errorf("error %q lacks %q", err, want)
				}
			}
		})
	}
	_, f := serverFlags(t)
	if err := loadConfigFile(f, "/nonexistent/config.yaml"); err == nil || !strings.Contains(err.Error(), "/nonexistent/config.yaml") {
		t.Errorf("a missing file: %v", err)
	}
}

func TestNodeOptionsReportEveryBadValue(t *testing.T) {
	o, _ := serverFlags(t, "--node-name=Bad_Name", "--root-dir=relative", "--network=overlay", "--proxy-mode=magic", "--cgroup-driver=upstart",
		"--service-cluster-ip-range=10.96.0.1/16", "--cluster-cidr=ten", "--cluster-dns=dns", "--node-ip=here", "--register-with-taints=a:b", "--kubelet-port=70000")
	err := o.Node.complete(t.TempDir())
	if err == nil {
		t.Fatal("no error")
	}
	for _, want := range []string{"--node-name", "--root-dir", "--network", "--proxy-mode", "--cgroup-driver", "write 10.96.0.0/16", "--cluster-cidr",
		"--cluster-dns", "--node-ip", "--register-with-taints", "--kubelet-port"} {
		if !strings.Contains(err.Error(), want) {
			t.Errorf("the error lacks %q:\n%v", want, err)
		}
	}
}

func TestClusterDNSIsTheTenthServiceAddress(t *testing.T) {
	o, _ := serverFlags(t, "--service-cluster-ip-range=172.20.0.0/16,fd00:20::/112", "--node-ip=192.0.2.1")
	if err := o.Node.complete(t.TempDir()); err != nil {
		t.Fatal(err)
	}
	if want := []string{"172.20.0.10", "fd00:20::a"}; !reflect.DeepEqual(o.Node.ClusterDNS, want) {
		t.Errorf("cluster DNS %v, want %v", o.Node.ClusterDNS, want)
	}
	if got := nth(netip.MustParsePrefix("10.0.0.0/24"), 1).String(); got != "10.0.0.1" {
		t.Errorf("nth = %s", got)
	}
}

// The agent's command line must parse back to what the server was given.
func TestFlagsHandedToTheAgentParseBack(t *testing.T) {
	o, f := serverFlags(t, "--node-labels=a=b,c=d", "--register-with-taints=k=v:NoSchedule,x:NoExecute", "--max-pods=5", "--cni-bin-dir=/a,/b", "--log-level=debug", "--tls-san=x")
	var args []string
	f.Visit(func(fl *pflag.Flag) {
		if !ownFlags[fl.Name] {
			args = append(args, flagArgs(fl)...)
		}
	})
	again, _ := serverFlags(t, args...)
	again.TLSSANs = o.TLSSANs // the server's alone
	if !reflect.DeepEqual(o, again) {
		t.Errorf("from %q came\n%+v, want\n%+v", args, again, o)
	}
}
