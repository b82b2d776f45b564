package e2e

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	v1 "github.com/google/go-containerregistry/pkg/v1"

	"github.com/reevehq/reeve/tests/node"
)

// TestExtend is what users put on top: kinds of their own, charts, and programs that talk to the API from a pod.
func TestExtend(t *testing.T) {
	n := story{node.New(t)}
	program := node.GoProgram(t, "github.com/reevehq/reeve/tests/e2e/incluster")
	n.WriteImage("localhost/incluster:v1", v1.Config{Entrypoint: []string{"/incluster"}}, []node.Entry{{Name: "incluster", Mode: 0o755, Body: program}})
	n.Start()

	t.Run("a CustomResourceDefinition", func(t *testing.T) {
		n.Kubectl("apply", "-f", "testdata/crd.yaml")
		n.Kubectl("wait", "--for=condition=Established", "crd/shires.e2e.reeve.dev", "--timeout=180s")
		const shire = "apiVersion: e2e.reeve.dev/v1\nkind: Shire\nmetadata: {name: york}\nspec: {hundreds: "
		node.Eventually(t, "objects of the new kind", func() error {
			_, err := n.TryKubectl(shire+"12}\n", "apply", "-f", "-")
			return err
		})
		if out := n.Kubectl("get", "sh"); !strings.Contains(out, "HUNDREDS") || !strings.Contains(out, "12") {
			t.Errorf("get by short name:\n%s", out)
		}
		if out := n.Kubectl("get", "shire", "york", "-o", "jsonpath={.spec.seat}"); out != "York" {
			t.Errorf("the schema's default: %q", out)
		}
		if _, err := n.TryKubectl(shire+"0}\n", "apply", "-f", "-"); err == nil || !strings.Contains(err.Error(), "spec.hundreds") {
			t.Errorf("a value below the minimum: %v, want an error that names spec.hundreds", err)
		}
		n.Kubectl("patch", "shire", "york", "--subresource=status", "--type=merge", "-p", `{"status":{"reeve":"Hugh"}}`)
		node.Eventually(t, "explain of the new kind", func() error {
			out, err := n.TryKubectl("", "explain", "shire.spec.hundreds")
			if err == nil && !strings.Contains(out, "How many hundreds") {
				err = fmt.Errorf("explain: %s", out)
			}
			return err
		})
		n.Kubectl("delete", "-f", "testdata/crd.yaml", "--timeout=180s")
	})

	t.Run("a chart through helm", func(t *testing.T) {
		helm := helmProgram(t)
		runHelm := func(args ...string) string {
			t.Helper()
			ctx, cancel := context.WithTimeout(context.Background(), node.ExecTimeout)
			defer cancel()
			cmd := exec.CommandContext(ctx, helm, args...)
			cmd.Env = append(os.Environ(), "KUBECONFIG="+n.Kubeconfig(), "HOME="+n.Dir)
			out, err := cmd.CombinedOutput()
			if err != nil {
				t.Fatalf("helm %s: %v\n%s", strings.Join(args, " "), err, out)
			}
			return string(out)
		}
		runHelm("install", "greeter", "testdata/chart", "--wait", "--timeout=180s")
		ip := n.Kubectl("get", "service", "greeter", "-o", "jsonpath={.spec.clusterIP}")
		node.Eventually(t, "the chart's page", func() error { _, err := get("http://" + ip + "/"); return err })
		runHelm("upgrade", "greeter", "testdata/chart", "--set", "replicas=1", "--wait", "--timeout=180s")
		if out := runHelm("list"); !strings.Contains(out, "greeter") || !strings.Contains(out, "deployed") {
			t.Errorf("helm list:\n%s", out)
		}
		runHelm("rollback", "greeter", "1", "--wait", "--timeout=180s")
		runHelm("uninstall", "greeter", "--wait", "--timeout=180s")
		if out := n.Kubectl("get", "deployments,services", "-l", "release=greeter", "-o", "name"); strings.TrimSpace(out) != "" {
			t.Errorf("after uninstall there is still %s", out)
		}
	})

	t.Run("client-go in a pod", func(t *testing.T) {
		n.Kubectl("create", "serviceaccount", "lister")
		n.Kubectl("create", "role", "lister", "--verb=list", "--resource=services")
		n.Kubectl("create", "rolebinding", "lister", "--role=lister", "--serviceaccount=default:lister")
		n.Kubectl("run", "incluster", "--image=localhost/incluster:v1", "--image-pull-policy=Never", "--restart=Never",
			`--overrides={"spec":{"serviceAccountName":"lister"}}`)
		n.Kubectl("wait", "--for=jsonpath={.status.phase}=Succeeded", "pod/incluster", "--timeout=180s")
		if out := n.Kubectl("logs", "incluster"); strings.TrimSpace(out) != "kubernetes" {
			t.Errorf("the program in the pod printed %q, want the one Service", out)
		}
	})
}

// helmProgram is the real helm: HELM_BIN, as `make tools` builds it, or built now from its own module.
func helmProgram(t *testing.T) string {
	t.Helper()
	if path := os.Getenv("HELM_BIN"); path != "" {
		return path
	}
	out := filepath.Join(t.TempDir(), "helm")
	cmd := exec.Command("go", "build", "-o", out, "helm.sh/helm/v3/cmd/helm")
	cmd.Dir = "../tools/helm"
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
	if b, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("build helm: %v\n%s", err, b)
	}
	return out
}
