package controlplane

import (
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"k8s.io/apimachinery/pkg/api/resource"
	"k8s.io/client-go/rest"
)

func quantity(s string) resource.Quantity { return resource.MustParse(s) }

const widgets = `
apiVersion: apiextensions.k8s.io/v1
kind: CustomResourceDefinition
metadata: {name: widgets.example.com}
spec:
  group: example.com
  scope: Namespaced
  names: {plural: widgets, singular: widget, kind: Widget, shortNames: [wd]}
  versions:
  - name: v1
    served: true
    storage: true
    subresources: {status: {}, scale: {specReplicasPath: .spec.size, statusReplicasPath: .status.size}}
    additionalPrinterColumns: [{name: Size, type: integer, jsonPath: .spec.size}]
    schema:
      openAPIV3Schema:
        type: object
        properties:
          spec:
            type: object
            properties:
              size: {type: integer, minimum: 1, default: 3, description: How many of them.}
              color: {type: string}
            x-kubernetes-validations: [{rule: "self.color != 'beige'", message: no beige}]
          status: {type: object, properties: {size: {type: integer}}}
`

func TestCustomResourcesThroughKubectl(t *testing.T) {
	c := sharedCluster(t)
	ns := c.namespace(t, "custom")
	c.kubectl(t, widgets, "apply", "-f", "-")
	c.kubectl(t, "", "wait", "--for=condition=Established", "crd/widgets.example.com", "--timeout=60s")
	eventuallyKubectl(t, c, "apiVersion: example.com/v1\nkind: Widget\nmetadata: {name: w}\nspec: {color: red}\n", "apply", "-n", ns, "-f", "-")

	if out := c.kubectl(t, "", "get", "wd", "w", "-n", ns); !strings.Contains(out, "SIZE") || !strings.Contains(out, "3") {
		t.Errorf("get wd:\n%s", out)
	}
	c.kubectl(t, "", "scale", "widget/w", "--replicas=5", "-n", ns)
	if out := c.kubectl(t, "", "get", "widget", "w", "-n", ns, "-o", "jsonpath={.spec.size} {.metadata.generation}"); out != "5 2" {
		t.Errorf("after scale: %q, want size 5 at generation 2", out)
	}
	if out := c.kubectlFails(t, "", "patch", "widget", "w", "-n", ns, "--type=merge", "-p", `{"spec":{"color":"beige"}}`); !strings.Contains(out, "no beige") {
		t.Errorf("rule not enforced:\n%s", out)
	}
	eventually(t, "explain the custom kind", explains(t, c, "widget.spec.size", "How many of them"))
	c.kubectl(t, "", "delete", "crd", "widgets.example.com", "--wait=false")
}

func TestKubectlApplyDiffExplainAndTables(t *testing.T) {
	c := sharedCluster(t)
	ns := c.namespace(t, "kubectl")
	manifest := `
apiVersion: apps/v1
kind: Deployment
metadata: {name: web, labels: {app: web}}
spec:
  replicas: 2
  selector: {matchLabels: {app: web}}
  template:
    metadata: {labels: {app: web}}
    spec: {containers: [{name: web, image: "busybox:1"}]}
---
apiVersion: v1
kind: Service
metadata: {name: web}
spec: {type: NodePort, selector: {app: web}, ports: [{port: 80, targetPort: 8080}]}
`
	c.kubectl(t, manifest, "apply", "-n", ns, "-f", "-")
	if out := c.kubectl(t, manifest, "apply", "-n", ns, "-f", "-"); strings.Count(out, "unchanged") != 2 {
		t.Errorf("second apply changed something:\n%s", out)
	}
	c.kubectl(t, manifest, "apply", "--server-side", "--force-conflicts", "-n", ns, "-f", "-")
	if out := c.kubectl(t, manifest, "diff", "-n", ns, "-f", "-"); out != "" {
		t.Errorf("diff of what was applied:\n%s", out)
	}
	c.kubectl(t, "", "set", "image", "deployment/web", "web=busybox:2", "-n", ns)
	if out := c.kubectl(t, "", "get", "deployment,service", "-n", ns, "-o", "wide"); !strings.Contains(out, "busybox:2") || !strings.Contains(out, "NodePort") || !strings.Contains(out, "0/2") {
		t.Errorf("tables:\n%s", out)
	}
	if out := c.kubectl(t, "", "describe", "deployment/web", "-n", ns); !strings.Contains(out, "busybox:2") {
		t.Errorf("describe:\n%s", out)
	}
	eventually(t, "explain a built-in kind", explains(t, c, "deployment.spec.strategy.rollingUpdate", "maxSurge"))
	for kind, want := range map[string]string{"pods": "containers", "service": "clusterIP", "cronjob": "schedule"} {
		if out := c.kubectl(t, "", "explain", kind+".spec"); !strings.Contains(out, want) {
			t.Errorf("explain %s.spec lacks %s", kind, want)
		}
	}
	if out := c.kubectl(t, "", "auth", "can-i", "--list", "--as=system:node:x", "--as-group=system:nodes"); !strings.Contains(out, "selfsubjectreviews") {
		t.Errorf("can-i --list:\n%s", out)
	}
	if out := c.kubectl(t, "", "get", "--raw", "/readyz?verbose"); !strings.Contains(out, "readyz check passed") {
		t.Errorf("readyz:\n%s", out)
	}
	if out := c.kubectl(t, "", "get", "cs"); !strings.Contains(out, "etcd-0") {
		t.Errorf("component statuses:\n%s", out)
	}
}

func TestRestartKeepsDataAndIdentity(t *testing.T) {
	dir := shortDir(t)
	c, stop := start(t, dir, nil)
	c.namespace(t, "kept")
	files := []string{"server/pki/ca.crt", "server/pki/service-account.key", "server/node-token"}
	before := map[string]string{}
	for _, f := range files {
		before[f] = read(t, filepath.Join(dir, f))
		if info, err := os.Stat(filepath.Join(dir, f)); err != nil || info.Mode().Perm() != 0o600 {
			t.Errorf("%s: mode %v, want 0600", f, info.Mode().Perm())
		}
	}
	if !strings.HasPrefix(before["server/node-token"], "R1") {
		t.Errorf("node token = %q", before["server/node-token"])
	}
	c.kubectl(t, "", "create", "rolebinding", "view", "-n", "kept", "--clusterrole=view", "--serviceaccount=kept:default")
	token := strings.TrimSpace(c.kubectl(t, "", "create", "token", "default", "-n", "kept"))
	stop()

	// From the moment that the port is open, a client with rights is made to wait and never told that it has none.
	asked := make(chan []int, 1)
	c, _ = start(t, dir, func(config *Config) {
		client, err := rest.HTTPClientFor(&rest.Config{TLSClientConfig: rest.TLSClientConfig{Insecure: true}, BearerToken: token})
		if err != nil {
			t.Fatal(err)
		}
		url := "https://" + config.Listener.Addr().String() + "/api/v1/namespaces/kept/configmaps"
		go func() {
			var codes []int
			for range 20 {
				if response, err := client.Get(url); err == nil {
					codes = append(codes, response.StatusCode)
					response.Body.Close()
				}
			}
			asked <- codes
		}()
	})
	codes := <-asked
	if len(codes) == 0 {
		t.Error("no request got an answer")
	}
	for _, code := range codes {
		if code != http.StatusOK {
			t.Errorf("answers while starting: %v, want 200 only", codes)
			break
		}
	}
	if out := c.kubectl(t, "", "get", "ns", "kept", "-o", "jsonpath={.status.phase}"); out != "Active" {
		t.Errorf("namespace after restart: %q", out)
	}
	for _, f := range files {
		if read(t, filepath.Join(dir, f)) != before[f] {
			t.Errorf("%s changed over a restart", f)
		}
	}
}

func read(t testing.TB, path string) string {
	t.Helper()
	raw, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return string(raw)
}
