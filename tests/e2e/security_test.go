package e2e

import (
	"bytes"
	"crypto/tls"
	"errors"
	"io/fs"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/reevehq/reeve/tests/node"
)

// TestSecurity asks for what must be refused: another node's objects with a node's credential, the agent's server without
// one, keys that others could read, etcd from a pod.
func TestSecurity(t *testing.T) {
	n := story{node.New(t)}
	n.Busybox()
	n.Start()
	n.Kubectl("create", "secret", "generic", "unrelated", "--from-literal=k=v")
	n.Kubectl("create", "secret", "generic", "mounted", "--from-literal=k=v")
	n.KubectlIn("apiVersion: v1\nkind: Node\nmetadata: {name: other}\n", "create", "-f", "-")

	t.Run("a node's credential", func(t *testing.T) {
		asNode := func(args ...string) (string, error) {
			return n.TryKubectl("", append([]string{"--kubeconfig", filepath.Join(n.DataDir(), "agent", "node.kubeconfig")}, args...)...)
		}
		if out, err := asNode("auth", "whoami", "-o", "jsonpath={.status.userInfo.username} {.status.userInfo.groups}"); err != nil || !strings.HasPrefix(out, "system:node:node-a ") || !strings.Contains(out, "system:nodes") || strings.Contains(out, "system:masters") {
			t.Fatalf("the node is %q, %v", out, err)
		}
		if out, err := asNode("get", "node", "node-a", "-o", "name"); err != nil {
			t.Errorf("its own Node: %q, %v", out, err)
		}
		for what, args := range map[string][]string{
			"an unrelated Secret":      {"get", "secret", "unrelated"},
			"all Secrets":              {"get", "secrets"},
			"labelling another node":   {"label", "node", "other", "x=y"},
			"deleting another node":    {"delete", "node", "other"},
			"an own forbidden label":   {"label", "node", "node-a", "node-restriction.kubernetes.io/x=y"},
			"creating a Deployment":    {"create", "deployment", "d", "--image=x"},
			"tokens of other accounts": {"create", "token", "default"},
		} {
			if out, err := asNode(args...); err == nil || !strings.Contains(err.Error(), "orbidden") {
				t.Errorf("%s: %q, %v; want Forbidden", what, out, err)
			}
		}
	})

	t.Run("a Secret becomes readable with the pod that mounts it", func(t *testing.T) {
		asNode := []string{"--kubeconfig", filepath.Join(n.DataDir(), "agent", "node.kubeconfig"), "get", "secret", "mounted"}
		if _, err := n.TryKubectl("", asNode...); err == nil {
			t.Error("readable before any pod mounts it")
		}
		n.KubectlIn(`
apiVersion: v1
kind: Pod
metadata: {name: reader}
spec:
  containers:
  - name: c
    image: localhost/busybox:v1
    imagePullPolicy: Never
    command: [sleep, "3600"]
    securityContext: {runAsUser: 65534, runAsNonRoot: true}
    volumeMounts:
    - {name: s, mountPath: /s}
    - {name: data, mountPath: /data}
  volumes:
  - {name: s, secret: {secretName: mounted}}
  - {name: data, hostPath: {path: "`+n.DataDir()+`"}}
`, "apply", "-f", "-")
		n.Kubectl("wait", "--for=condition=Ready", "pod/reader", "--timeout=180s")
		if _, err := n.TryKubectl("", asNode...); err != nil {
			t.Errorf("not readable though a pod on the node mounts it: %v", err)
		}
		// The pod sees the folder, as a hostPath lets it, and gets no further.
		if out, err := n.TryKubectl("", "exec", "reader", "--", "ls", "/data/server/etcd"); err == nil || !strings.Contains(out, "ermission denied") {
			t.Errorf("a pod's process lists etcd's folder: %q, %v", out, err)
		}
	})

	t.Run("the agent's server", func(t *testing.T) {
		client := http.Client{Timeout: 20 * time.Second, Transport: &http.Transport{TLSClientConfig: &tls.Config{InsecureSkipVerify: true}}}
		for _, path := range []string{"/pods", "/metrics", "/containerLogs/default/reader/c", "/exec/default/reader/c?command=id&output=1", "/healthz"} {
			resp, err := client.Get("https://" + node.IP + ":10250" + path)
			if err != nil {
				t.Fatal(err)
			}
			resp.Body.Close()
			if resp.StatusCode != http.StatusUnauthorized {
				t.Errorf("GET %s without a credential: %s, want 401", path, resp.Status)
			}
		}
		req, err := http.NewRequest("GET", "https://"+node.IP+":10250/pods", nil)
		if err != nil {
			t.Fatal(err)
		}
		req.Header.Set("Authorization", "Bearer "+strings.TrimSpace(n.Kubectl("create", "token", "default")))
		resp, err := client.Do(req)
		if err != nil {
			t.Fatal(err)
		}
		resp.Body.Close()
		if resp.StatusCode != http.StatusForbidden {
			t.Errorf("GET /pods as an account without rights: %s, want 403", resp.Status)
		}
	})

	t.Run("files with keys", func(t *testing.T) {
		keys := 0
		err := filepath.WalkDir(n.DataDir(), func(p string, d fs.DirEntry, err error) error {
			if errors.Is(err, fs.ErrNotExist) {
				return nil // replaced since its folder was read
			}
			if err != nil {
				return err
			}
			if !d.Type().IsRegular() {
				if d.IsDir() && (d.Name() == "etcd" || d.Name() == "containerd" || d.Name() == "bin" || d.Name() == "images" || d.Name() == "netns" || d.Name() == "ns") {
					return fs.SkipDir
				}
				return nil
			}
			b, err := os.ReadFile(p)
			if errors.Is(err, fs.ErrNotExist) {
				return nil
			}
			if err != nil {
				return err
			}
			if !bytes.Contains(b, []byte("PRIVATE KEY")) && !bytes.Contains(b, []byte("client-key-data")) && d.Name() != "node-token" {
				return nil
			}
			keys++
			st, err := os.Stat(p)
			if err != nil {
				return err
			}
			if st.Mode().Perm()&0o077 != 0 {
				t.Errorf("%s holds a key and has mode %v", p, st.Mode().Perm())
			}
			return nil
		})
		if err != nil {
			t.Fatal(err)
		}
		if keys < 5 {
			t.Errorf("found only %d files with keys: the check looks in the wrong place", keys)
		}
		if st, err := os.Stat(filepath.Join(n.DataDir(), "server", "etcd")); err != nil || st.Mode().Perm() != 0o700 {
			t.Errorf("etcd's folder: %v, %v; want 0700", st, err)
		}
	})

	t.Run("etcd listens on no port", func(t *testing.T) {
		out, err := run("ss", "-Hltnp")
		if err != nil {
			t.Fatal(err)
		}
		for _, port := range []string{":2379 ", ":2380 "} {
			if strings.Contains(out, port) {
				t.Errorf("something listens on %s:\n%s", port, out)
			}
		}
		if !strings.Contains(out, ":6443 ") {
			t.Errorf("the list lacks the API server, so it proves nothing:\n%s", out)
		}
	})
}
