package kubeletconfig

import (
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/spf13/pflag"
	kubelet "k8s.io/kubelet/config/v1beta1"

	"github.com/reevehq/reeve/internal/dropin"
)

const head = "apiVersion: kubelet.config.k8s.io/v1beta1\nkind: KubeletConfiguration\n"

// load parses a command line; FILE in it is a file with the given configuration, DIR a folder of the given files.
func load(t *testing.T, config string, folder map[string]string, args ...string) (*Loaded, error) {
	t.Helper()
	dir := t.TempDir()
	if config != "" {
		if err := os.WriteFile(filepath.Join(dir, "config.yaml"), []byte(config), 0o600); err != nil {
			t.Fatal(err)
		}
		args = append(args, "--config", filepath.Join(dir, "config.yaml"))
	}
	for name, body := range folder {
		path := filepath.Join(dir, "conf.d", name)
		if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte(body), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	if folder != nil {
		args = append(args, "--config-dir", filepath.Join(dir, "conf.d"))
	}
	set := pflag.NewFlagSet("kubelet", pflag.ContinueOnError)
	flags := dropin.NewFlags(set, Flags)
	if err := set.Parse(args); err != nil {
		return nil, err
	}
	return Load(flags)
}

func TestEveryFieldIsInTheTable(t *testing.T) {
	paths := dropin.Fields(reflect.TypeFor[kubelet.KubeletConfiguration]())
	if len(paths) < 100 {
		t.Fatalf("found only %d fields: %v", len(paths), paths)
	}
	forgotten, idle := Fields.Covers(paths)
	if len(forgotten) > 0 || len(idle) > 0 {
		t.Errorf("fields without an entry: %v\nentries without a field: %v", forgotten, idle)
	}
}

func TestEveryFlagSetsAFieldOrSaysWhatBecomesOfIt(t *testing.T) {
	paths := dropin.Fields(reflect.TypeFor[kubelet.KubeletConfiguration]())
	seen := map[string]bool{}
	for _, f := range Flags {
		if seen[f.Name] {
			t.Errorf("--%s is there twice", f.Name)
		}
		seen[f.Name] = true
		switch {
		case f.Path == "" && f.Support == "":
			t.Errorf("--%s: neither a field nor a word on what becomes of it", f.Name)
		case f.Path != "" && !slices.Contains(paths, f.Path):
			t.Errorf("--%s sets %s, which is no field", f.Name, f.Path)
		}
	}
}

// Each flag that sets a field is given a value of its type: what it makes of the document must decode.
func TestEveryFlagDecodes(t *testing.T) {
	sample := map[dropin.Type]string{
		boolean: "true", integer: "7", text: "x", duration: "7s", list: "a,b", integers: "23,29", mapping: "a=1,b=2", thresholds: "memory.available<1Gi", gates: "A=true,B=false", headers: "a:1,a:2",
	}
	for _, f := range Flags {
		if f.Path == "" {
			continue
		}
		value := sample[f.Type]
		set := pflag.NewFlagSet("kubelet", pflag.ContinueOnError)
		flags := dropin.NewFlags(set, Flags)
		if err := set.Parse([]string{"--" + f.Name + "=" + value}); err != nil {
			t.Errorf("--%s=%s: %v", f.Name, value, err)
			continue
		}
		doc := dropin.Document{}
		flags.Apply(doc)
		if err := doc.Decode(&kubelet.KubeletConfiguration{}); err != nil || doc.Get(f.Path) == nil {
			t.Errorf("--%s=%s makes %v, which does not decode: %v", f.Name, value, doc, err)
		}
	}
}

func TestDefaultsFileFolderFlagsInThatOrder(t *testing.T) {
	l, err := load(t, head+`
maxPods: 10
clusterDNS: [10.0.0.1, 10.0.0.2]
evictionHard: {memory.available: 1Gi, nodefs.available: 1%}
featureGates: {A: true}
syncFrequency: 30s
containerLogMaxFiles: 7
staticPodPath: pods.d
`, map[string]string{
		"20-b.conf":      head + "maxPods: 30\n",
		"10-a.conf":      head + "maxPods: 20\nclusterDNS: [10.0.0.3]\nevictionHard: {memory.available: 2Gi}\n",
		"30-c.conf":      head + "containerLogMaxFiles: null\n",
		"more/40-d.conf": head + "clusterDomain: example.org\n",
		"README":         "not a configuration",
		"99-c.yaml":      "neither",
	}, "--sync-frequency=20s", "--feature-gates=B=false", "--v=4", "--node_labels=a=b,c=d")
	if err != nil {
		t.Fatal(err)
	}
	if l.MaxPods != 30 || !slices.Equal(l.ClusterDNS, []string{"10.0.0.3"}) || l.ClusterDomain != "example.org" {
		t.Errorf("the folder's files do not win in their order: maxPods %d, clusterDNS %v, clusterDomain %q", l.MaxPods, l.ClusterDNS, l.ClusterDomain)
	}
	if want := map[string]string{"memory.available": "2Gi", "nodefs.available": "1%"}; !reflect.DeepEqual(l.EvictionHard, want) {
		t.Errorf("maps do not merge: %v, want %v", l.EvictionHard, want)
	}
	if *l.ContainerLogMaxFiles != 5 {
		t.Errorf("null does not unset: containerLogMaxFiles %d", *l.ContainerLogMaxFiles)
	}
	if l.SyncFrequency.Duration != 20*time.Second || l.Logging.Verbosity != 4 {
		t.Errorf("flags do not win: syncFrequency %s, verbosity %d", l.SyncFrequency.Duration, l.Logging.Verbosity)
	}
	if want := map[string]bool{"A": true, "B": false}; !reflect.DeepEqual(l.FeatureGates, want) {
		t.Errorf("feature gates of file and flag do not join: %v", l.FeatureGates)
	}
	if l.Port != 10250 || *l.HealthzPort != 10248 || l.Address != "0.0.0.0" || !*l.Authentication.Webhook.Enabled || *l.Authentication.Anonymous.Enabled {
		t.Errorf("defaults are missing: %+v", l.KubeletConfiguration)
	}
	if !filepath.IsAbs(l.StaticPodPath) || filepath.Base(l.StaticPodPath) != "pods.d" {
		t.Errorf("a relative path does not count from the file's folder: %q", l.StaticPodPath)
	}
	if !slices.ContainsFunc(l.Deprecated, func(s string) bool {
		return strings.Contains(s, "--sync-frequency: set syncFrequency in the file of --config instead")
	}) {
		t.Errorf("no word on the deprecated flag: %q", l.Deprecated)
	}
}

func TestAFlagsMapTakesThePlaceOfTheFiles(t *testing.T) {
	l, err := load(t, head+"evictionHard: {memory.available: 1Gi, nodefs.available: 1%}\n", nil, "--eviction-hard=memory.available<3Gi", "--eviction-hard=imagefs.available<5%")
	if err != nil {
		t.Fatal(err)
	}
	if want := map[string]string{"memory.available": "3Gi", "imagefs.available": "5%"}; !reflect.DeepEqual(l.EvictionHard, want) {
		t.Errorf("evictionHard %v, want %v", l.EvictionHard, want)
	}
}

func TestWhatIsNotImplementedIsNamedAndWhatAsksForNothingIsNot(t *testing.T) {
	// As `kubeadm init` writes it.
	l, err := load(t, head+`
authentication: {anonymous: {enabled: false}, webhook: {cacheTTL: 0s, enabled: true}, x509: {clientCAFile: /etc/kubernetes/pki/ca.crt}}
authorization: {mode: Webhook, webhook: {cacheAuthorizedTTL: 0s, cacheUnauthorizedTTL: 0s}}
cgroupDriver: systemd
clusterDNS: [10.96.0.10]
clusterDomain: cluster.local
containerRuntimeEndpoint: ""
cpuManagerReconcilePeriod: 0s
crashLoopBackOff: {}
evictionPressureTransitionPeriod: 0s
fileCheckFrequency: 0s
healthzBindAddress: 127.0.0.1
healthzPort: 10248
httpCheckFrequency: 0s
imageMaximumGCAge: 0s
imageMinimumGCAge: 0s
logging: {flushFrequency: 0, options: {json: {infoBufferSize: "0"}, text: {infoBufferSize: "0"}}, verbosity: 0}
memorySwap: {}
nodeStatusReportFrequency: 0s
nodeStatusUpdateFrequency: 0s
rotateCertificates: true
runtimeRequestTimeout: 0s
shutdownGracePeriod: 0s
shutdownGracePeriodCriticalPods: 0s
staticPodPath: /etc/kubernetes/manifests
streamingConnectionIdleTimeout: 0s
syncFrequency: 0s
volumeStatsAggPeriod: 0s
`, nil)
	if err != nil {
		t.Fatal(err)
	}
	if len(l.Missing) > 0 {
		t.Errorf("kubeadm's configuration asks for what is not implemented: %v", l.Missing)
	}
	l, err = load(t, head+"cpuManagerPolicy: static\ntopologyManagerScope: container\nenableDebugFlagsHandler: false\nenforceNodeAllocatable: [pods, kube-reserved]\nshutdownGracePeriod: 30s\nfeatureGates: {InPlacePodVerticalScaling: true}\n", nil,
		"--image-credential-provider-config=/etc/x", "--maximum-dead-containers=-1", "--pod-infra-container-image=registry.k8s.io/pause:3.10", "--containerd=/x.sock")
	if err != nil {
		t.Fatal(err)
	}
	var named []string
	for _, f := range l.Missing {
		named = append(named, f.Path)
	}
	want := []string{"cpuManagerPolicy", "enableDebugFlagsHandler", "featureGates.InPlacePodVerticalScaling", "shutdownGracePeriod", "--image-credential-provider-config", "enforceNodeAllocatable"}
	if !slices.Equal(named, want) {
		t.Errorf("named %v, want %v", named, want)
	}
}

func TestMistakesNameFileAndField(t *testing.T) {
	for name, tc := range map[string]struct {
		config string
		folder map[string]string
		args   []string
		want   []string
	}{
		"unknown field":       {config: head + "maxPod: 3\n", want: []string{"config.yaml", `unknown field "maxPod"`}},
		"nested unknown":      {config: head + "authentication: {x509: {clientCaFile: /x}}\n", want: []string{`unknown field "authentication.x509.clientCaFile"`}},
		"case":                {config: head + "maxpods: 3\n", want: []string{`unknown field "maxpods"`}},
		"type":                {config: head + "maxPods: many\n", want: []string{"config.yaml", "maxPods", "string"}},
		"twice":               {config: head + "maxPods: 1\nmaxPods: 2\n", want: []string{"maxPods"}},
		"kind":                {config: "apiVersion: v1\nkind: Pod\n", want: []string{`kind "Pod"`, "KubeletConfiguration"}},
		"empty":               {config: "\n", want: []string{"empty", "apiVersion"}},
		"drop-in":             {folder: map[string]string{"1.conf": head, "2.conf": "maxPods: 1\n"}, want: []string{"--config-dir", "2.conf", "apiVersion"}},
		"no folder":           {args: []string{"--config-dir=/nowhere"}, want: []string{"--config-dir", "/nowhere", "make the folder"}},
		"no file":             {args: []string{"--config=/nowhere.yaml"}, want: []string{"--config", "/nowhere.yaml"}},
		"flag type":           {args: []string{"--max-pods=many"}, want: []string{"--max-pods", "many"}},
		"unknown flag":        {args: []string{"--max-pod=1"}, want: []string{"--max-pod"}},
		"several at once":     {config: head + "port: 70000\ncgroupDriver: x\nclusterDNS: [x]\nauthorization: {mode: Never}\n", want: []string{"port: 70000", "cgroupDriver", "clusterDNS[0]", "authorization.mode"}},
		"read-only port":      {args: []string{"--read-only-port=10255"}, want: []string{"readOnlyPort", "refused", "authentication"}},
		"run once":            {config: head + "runOnce: true\n", want: []string{"runOnce", "refused"}},
		"thresholds crossed":  {config: head + "imageGCHighThresholdPercent: 50\n", want: []string{"imageGCLowThresholdPercent: 80"}},
		"reserved":            {config: head + "systemReserved: {gpu: '1'}\n", want: []string{"systemReserved", "gpu"}},
		"cipher":              {config: head + "tlsCipherSuites: [ROT13]\n", want: []string{"tlsCipherSuites", "ROT13"}},
		"taint":               {config: head + "registerWithTaints: [{key: a, effect: Sometimes}]\n", want: []string{"registerWithTaints[0]", "NoSchedule"}},
		"half a certificate":  {config: head + "tlsCertFile: /x\n", want: []string{"tlsCertFile", "tlsPrivateKeyFile"}},
		"npipe":               {config: head + "containerRuntimeEndpoint: npipe:////./pipe/x\n", want: []string{"containerRuntimeEndpoint", "unix://"}},
		"malformed threshold": {args: []string{"--eviction-hard=memory.available=1Gi"}, want: []string{"eviction-hard", "key<value"}},
	} {
		t.Run(name, func(t *testing.T) {
			_, err := load(t, tc.config, tc.folder, tc.args...)
			if err == nil {
				t.Fatal("no error")
			}
			for _, want := range tc.want {
				if !strings.Contains(err.Error(), want) {
					t.Errorf("error %q does not say %q", err, want)
				}
			}
		})
	}
}
