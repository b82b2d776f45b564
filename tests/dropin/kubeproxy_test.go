package dropin

import (
	"errors"
	"fmt"
	"net/http"
	"os/exec"
	"strings"
	"testing"

	"k8s.io/client-go/tools/clientcmd"

	"github.com/reevehq/reeve/tests/node"
)

// apiService is the ClusterIP of default/kubernetes, whose one endpoint is the API server behind the node.
const apiService = "https://10.96.0.1/version"

// rules is everything of a Service proxy in this namespace's packet rules.
func rules() string {
	var found []string
	for _, cmd := range [][]string{{"iptables-save"}, {"nft", "list", "ruleset"}} {
		out, err := exec.Command(cmd[0], cmd[1:]...).CombinedOutput()
		if err != nil {
			found = append(found, fmt.Sprintf("%v: %v: %s", cmd, err, out))
		}
		for line := range strings.Lines(string(out)) {
			if strings.Contains(line, "KUBE-") || strings.Contains(line, "reeve-proxy") {
				found = append(found, line)
			}
		}
	}
	return strings.Join(found, "")
}

// kubeProxy runs the proxy with a KubeProxyConfiguration, and with flags alone.
func (b *bed) kubeProxy(t *testing.T) {
	kc, err := clientcmd.LoadFromFile(b.path("server", "admin.kubeconfig"))
	if err != nil {
		t.Fatal(err)
	}
	for _, cluster := range kc.Clusters {
		cluster.Server = apiURL
	}
	if err := clientcmd.WriteToFile(*kc, b.path("proxy.kubeconfig")); err != nil {
		t.Fatal(err)
	}
	b.write("proxy.yaml", fmt.Sprintf(`apiVersion: kubeproxy.config.k8s.io/v1alpha1
kind: KubeProxyConfiguration
clientConnection: {kubeconfig: %s}
clusterCIDR: 10.244.0.0/16
mode: iptables
metricsBindAddress: 127.0.0.1:10249
hostnameOverride: node-b
showHiddenMetricsForVersion: "1.35"
`, b.path("proxy.kubeconfig")))
	if _, _, err := getWithin(apiService, short); err == nil {
		t.Error("the Service answers without a proxy")
	}
	for _, tc := range []struct {
		mode  string
		args  []string
		clean []string
	}{
		{"iptables", []string{b.path("kube-proxy"), "--config", b.path("proxy.yaml")}, []string{b.path("kube-proxy"), "--cleanup"}},
		{"nftables", []string{b.path("kube-proxy"), "--kubeconfig", b.path("proxy.kubeconfig"), "--proxy-mode=nftables", "--hostname-override=node-b",
			"--cluster-cidr=10.244.0.0/16", "--vmodule=x=1"}, []string{b.bin, "proxy", "cleanup"}},
	} {
		t.Run(tc.mode, func(t *testing.T) {
			p := &process{t: b.t, name: "kube-proxy", args: tc.args, log: b.path("kube-proxy-" + tc.mode + ".log")}
			p.start()
			defer p.stop()
			node.Eventually(t, "the Service answers", func() error {
				p.alive()
				if code, body, err := getWithin(apiService, short); err != nil || code != http.StatusOK && code != http.StatusUnauthorized {
					return fmt.Errorf("%d %s: %w", code, body, errors.Join(err, errors.New("no answer")))
				}
				return nil
			})
			if _, mode, err := get("http://127.0.0.1:10249/proxyMode"); err != nil || mode != tc.mode {
				t.Errorf("/proxyMode: %q, %v; want %s", mode, err, tc.mode)
			}
			node.Eventually(t, "/healthz is well", func() error {
				code, body, err := get("http://" + node.IP + ":10256/healthz")
				if err == nil && code != http.StatusOK {
					err = fmt.Errorf("%d %s", code, body)
				}
				return err
			})
			want := map[string]string{"iptables": "showHiddenMetricsForVersion", "nftables": "--vmodule"}[tc.mode]
			if strings.Count(p.text(), want) != 1 {
				t.Errorf("the log says %q %d times, want once:\n%s", want, strings.Count(p.text(), want), p.tail())
			}
			p.stop()
			if code, _, err := get(apiService); err != nil || code == 0 {
				t.Errorf("the rules went with the proxy: %v", err)
			}
			if out, err := exec.Command(tc.clean[0], tc.clean[1:]...).CombinedOutput(); err != nil {
				t.Errorf("%v: %v\n%s", tc.clean, err, out)
			}
			if left := rules(); left != "" {
				t.Errorf("%v left:\n%s", tc.clean, left)
			}
		})
	}
	if _, _, err := getWithin(apiService, short); err == nil {
		t.Error("the Service answers after the clean-up")
	}
	for want, args := range map[string][]string{
		"mode":                        {"--proxy-mode=userspace"},
		"--init-only":                 {"--init-only"},
		"clientConnection.kubeconfig": nil,
	} {
		out, err := exec.Command(b.path("kube-proxy"), args...).CombinedOutput()
		var exit *exec.ExitError
		if !errors.As(err, &exit) || exit.ExitCode() != 78 || !strings.Contains(string(out), want) {
			t.Errorf("kube-proxy %v: %v: %q, want exit code 78 and a word on %s", args, err, out, want)
		}
	}
}
