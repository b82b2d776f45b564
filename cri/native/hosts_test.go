package native

import (
	"context"
	"os"
	"path/filepath"
	"testing"

	"github.com/containerd/containerd/v2/core/remotes/docker/config"
)

// FuzzHosts: whatever a registry's hosts file holds, a pull gets hosts with usable addresses, or an error.
func FuzzHosts(f *testing.F) {
	for _, s := range []string{
		"", "server = \"https://mirror.example\"\n",
		"server = \"http://127.0.0.1:5000\"\n[host.\"http://127.0.0.1:5000\"]\n  capabilities = [\"pull\", \"resolve\"]\n  skip_verify = true\n",
		"[host.\"https://a.example\"]\n  ca = \"/etc/ca.pem\"\n  client = [[\"/c.pem\", \"/k.pem\"]]\n  override_path = true\n  [host.\"https://a.example\".header]\n    x = [\"1\", \"2\"]\n",
		"[host]\n", "host = 3", "[host.\"\"]\n", "[host.\"::\"]\n", "\x00",
	} {
		f.Add([]byte(s))
	}
	dir := f.TempDir()
	if err := os.MkdirAll(filepath.Join(dir, "example.com"), 0o755); err != nil {
		f.Fatal(err)
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		if err := os.WriteFile(filepath.Join(dir, "example.com", "hosts.toml"), data, 0o600); err != nil {
			t.Fatal(err)
		}
		hosts, err := config.ConfigureHosts(context.Background(), config.HostOptions{HostDir: config.HostDirFromRoot(dir)})("example.com")
		if err != nil {
			return
		}
		for _, h := range hosts {
			if h.Scheme != "http" && h.Scheme != "https" {
				t.Errorf("%q leads to %+v", data, h)
			}
		}
	})
}
