package kubeproxyconfig

import (
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"testing"

	"github.com/spf13/pflag"
	kubeproxy "k8s.io/kube-proxy/config/v1alpha1"

	"github.com/reevehq/reeve/internal/dropin"
)

const head = "apiVersion: kubeproxy.config.k8s.io/v1alpha1\nkind: KubeProxyConfiguration\n"

func load(t *testing.T, config string, args ...string) (*Loaded, error) {
	t.Helper()
	if config != "" {
		path := filepath.Join(t.TempDir(), "config.conf")
		if err := os.WriteFile(path, []byte(config), 0o600); err != nil {
			t.Fatal(err)
		}
		args = append(args, "--config", path)
	}
	set := pflag.NewFlagSet("kube-proxy", pflag.ContinueOnError)
	flags := dropin.NewFlags(set, Flags)
	if err := set.Parse(args); err != nil {
		return nil, err
	}
	return Load(flags)
}

func TestTablesCoverEverything(t *testing.T) {
	paths := dropin.Fields(reflect.TypeFor[kubeproxy.KubeProxyConfiguration]())
	if forgotten, idle := Fields.Covers(paths); len(forgotten) > 0 || len(idle) > 0 {
		t.Errorf("fields without an entry: %v\nentries without a field: %v", forgotten, idle)
	}
	sample := map[dropin.Type]string{boolean: "true", integer: "7", number: "1.5", text: "x", duration: "7s", list: "a,b", gates: "A=true"}
	for _, f := range Flags {
		if f.Path == "" {
			if f.Support == "" {
				t.Errorf("--%s: neither a field nor a word on what becomes of it", f.Name)
			}
			continue
		}
		set := pflag.NewFlagSet("kube-proxy", pflag.ContinueOnError)
		flags := dropin.NewFlags(set, Flags)
		doc := dropin.Document{}
		if err := set.Parse([]string{"--" + f.Name + "=" + sample[f.Type]}); err != nil {
			t.Errorf("--%s=%s: %v", f.Name, sample[f.Type], err)
		}
		flags.Apply(doc)
		if err := doc.Decode(&kubeproxy.KubeProxyConfiguration{}); err != nil || !slices.Contains(paths, f.Path) || doc.Get(f.Path) == nil {
			t.Errorf("--%s makes %v: %v", f.Name, doc, err)
		}
	}
}

func TestWithAFileFlagsForItsFieldsHaveNoEffect(t *testing.T) {
	l, err := load(t, head+"mode: nftables\nclusterCIDR: 10.1.0.0/16\nhostnameOverride: a\nudpIdleTimeout: 1s\n", "--proxy-mode=ipvs", "--hostname-override=b", "--v=4")
	if err != nil {
		t.Fatal(err)
	}
	if l.Mode != "nftables" || l.HostnameOverride != "b" || l.Logging.Verbosity != 4 {
		t.Errorf("mode %s, hostnameOverride %s, verbosity %d", l.Mode, l.HostnameOverride, l.Logging.Verbosity)
	}
	told := strings.Join(l.Told, "\n")
	for _, want := range []string{"--proxy-mode: without effect beside --config", `unknown field "udpIdleTimeout"`} {
		if !strings.Contains(told, want) {
			t.Errorf("told %q, want %q in it", told, want)
		}
	}
}

func TestFlagsAloneAndDefaults(t *testing.T) {
	l, err := load(t, "", "--bind-address=::", "--masquerade-all", "--nodeport-addresses=10.0.0.0/8,fd00::/8", "--metrics-bind-address=0.0.0.0", "--feature-gates=A=true")
	if err != nil {
		t.Fatal(err)
	}
	if l.Mode != "iptables" || l.HealthzBindAddress != "[::]:10256" || l.MetricsBindAddress != "0.0.0.0:10249" || l.DetectLocalMode != "ClusterCIDR" {
		t.Errorf("defaults: mode %s, healthz %s, metrics %s, local %s", l.Mode, l.HealthzBindAddress, l.MetricsBindAddress, l.DetectLocalMode)
	}
	if !l.IPTables.MasqueradeAll || !l.NFTables.MasqueradeAll || len(l.NodePortAddresses) != 2 {
		t.Errorf("flags: %+v", l.KubeProxyConfiguration)
	}
	if len(l.Missing) != 1 || l.Missing[0].Path != "featureGates.A" {
		t.Errorf("named %v, want the feature gate", l.Missing)
	}
}

// As `kubeadm init` writes it.
func TestKubeadmsConfigurationAsksForNothingThatIsMissing(t *testing.T) {
	l, err := load(t, head+`
bindAddress: 0.0.0.0
bindAddressHardFail: false
clientConnection: {acceptContentTypes: "", burst: 0, contentType: "", kubeconfig: /var/lib/kube-proxy/kubeconfig.conf, qps: 0}
clusterCIDR: 10.244.0.0/16
configSyncPeriod: 0s
conntrack: {maxPerCore: null, min: null, tcpBeLiberal: false, tcpCloseWaitTimeout: null, tcpEstablishedTimeout: null, udpStreamTimeout: 0s, udpTimeout: 0s}
detectLocal: {bridgeInterface: "", interfaceNamePrefix: ""}
detectLocalMode: ""
enableProfiling: false
healthzBindAddress: ""
hostnameOverride: ""
iptables: {localhostNodePorts: null, masqueradeAll: false, masqueradeBit: null, minSyncPeriod: 0s, syncPeriod: 0s}
ipvs: {excludeCIDRs: null, minSyncPeriod: 0s, scheduler: "", strictARP: false, syncPeriod: 0s, tcpFinTimeout: 0s, tcpTimeout: 0s, udpTimeout: 0s}
logging: {flushFrequency: 0, options: {json: {infoBufferSize: "0"}, text: {infoBufferSize: "0"}}, verbosity: 0}
metricsBindAddress: ""
mode: ""
nftables: {masqueradeAll: false, masqueradeBit: null, minSyncPeriod: 0s, syncPeriod: 0s}
nodePortAddresses: null
oomScoreAdj: null
portRange: ""
showHiddenMetricsForVersion: ""
winkernel: {enableDSR: false, forwardHealthCheckVip: false, networkName: "", rootHnsEndpointName: "", sourceVip: ""}
`)
	if err != nil || len(l.Missing) > 0 || len(l.Told) > 0 {
		t.Errorf("%v; missing %v, told %v", err, l.Missing, l.Told)
	}
}

func TestMistakesNameTheField(t *testing.T) {
	for want, args := range map[string][]string{
		"mode":                        {"--proxy-mode=userspace"},
		"clusterCIDR":                 {"--cluster-cidr=10.0.0.0"},
		"nodePortAddresses":           {"--nodeport-addresses=primary,10.0.0.0/8"},
		"detectLocal.bridgeInterface": {"--detect-local-mode=BridgeInterface"},
		"healthzBindAddress":          {"--healthz-bind-address=here:1"},
		"iptables.masqueradeBit":      {"--iptables-masquerade-bit=32"},
		"bindAddress":                 {"--bind-address=x"},
		"--init-only":                 {"--init-only"},
		"--no-such-flag":              {"--no-such-flag"},
	} {
		if _, err := load(t, "", args...); err == nil || !strings.Contains(err.Error(), strings.TrimPrefix(want, "--")) {
			t.Errorf("%v: %v, want an error about %s", args, err, want)
		}
	}
	if _, err := load(t, head+"mode: [a]\n"); err == nil || !strings.Contains(err.Error(), "mode") {
		t.Errorf("a value of the wrong type: %v", err)
	}
}
