package e2e

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/reevehq/reeve/tests/node"
)

// TestStopStartAndUpgrade stops the server and starts it again, and then starts "a newer build" over the same data: the
// pods keep their containers, addresses, restart counts and readiness throughout, and serve while nothing of reeve runs.
func TestStopStartAndUpgrade(t *testing.T) {
	n := story{node.New(t)}
	n.Busybox()
	n.Start()
	n.Kubectl("apply", "-f", "testdata/kill.yaml")
	n.Kubectl("rollout", "status", "deployment/hello", "--timeout=180s")
	n.Kubectl("wait", "--for=condition=Ready", "pod/writer", "--timeout=180s")
	url := "http://" + n.Kubectl("get", "service", "hello", "-o", "jsonpath={.spec.clusterIP}") + "/"
	node.Eventually(t, "the Service to answer", func() error { _, err := get(url); return err })
	before := n.states()
	l := startLoad(url)

	n.Stop()
	l.progress(t, 50) // nothing of reeve runs, and the Service answers
	n.Start()
	l.progress(t, 50)
	n.wantSame("after stop and start", before)

	n.Stop()
	// The data as an older build left it: the recorded version is what tells.
	stamp := filepath.Join(n.DataDir(), "version")
	b, err := os.ReadFile(stamp)
	if err != nil {
		t.Fatal(err)
	}
	older := strings.Replace(string(b), `"v1.36.`, `"v1.35.`, 1)
	if older == string(b) {
		t.Fatalf("cannot age the stamp %s", b)
	}
	if err := os.WriteFile(stamp, []byte(older), 0o600); err != nil {
		t.Fatal(err)
	}
	n.Start()
	l.progress(t, 50)
	n.wantSame("after the upgrade", before)
	if got, err := os.ReadFile(stamp); string(got) != string(b) {
		t.Errorf("after the upgrade the stamp is %s, %v; want %s", got, err, b)
	}
	if backups, _ := filepath.Glob(filepath.Join(n.DataDir(), "backups", "*-v1.35.*", "data", "member", "snap", "db")); len(backups) != 1 {
		t.Errorf("copies of etcd taken before the upgrade: %v, want one", backups)
	}
	l.stop(t)
	n.wantEveryLineOnce("writer", "writer")
}
