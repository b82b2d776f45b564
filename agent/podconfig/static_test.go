package podconfig

import (
	"context"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	v1 "k8s.io/api/core/v1"
)

const manifest = `apiVersion: v1
kind: Pod
metadata: {name: web}
spec:
  containers: [{name: app, image: img}]
`

func TestDecode(t *testing.T) {
	p, err := Decode([]byte(manifest), "/etc/pods/web.yaml", "Node1")
	if err != nil {
		t.Fatal(err)
	}
	if p.Name != "web-node1" || p.Namespace != "default" || p.Spec.NodeName != "Node1" || len(p.UID) != 32 {
		t.Errorf("pod = %s/%s on %s, UID %s", p.Namespace, p.Name, p.Spec.NodeName, p.UID)
	}
	if p.Annotations["kubernetes.io/config.source"] != "file" || p.Annotations["kubernetes.io/config.hash"] != string(p.UID) {
		t.Errorf("annotations = %v", p.Annotations)
	}
	c := p.Spec.Containers[0]
	if c.ImagePullPolicy != v1.PullAlways || c.TerminationMessagePath == "" || p.Spec.RestartPolicy != v1.RestartPolicyAlways {
		t.Errorf("defaults are missing: %+v", p.Spec)
	}
	again, err := Decode([]byte(manifest), "/etc/pods/web.yaml", "Node1")
	if err != nil || again.UID != p.UID {
		t.Errorf("the same file gives another UID: %s, %v", again.UID, err)
	}
	other, err := Decode([]byte(strings.Replace(manifest, "img", "img:v2", 1)), "/etc/pods/web.yaml", "Node1")
	if err != nil || other.UID == p.UID {
		t.Errorf("another content gives the same UID, %v", err)
	}
}

func TestDecodeRefuses(t *testing.T) {
	for text, want := range map[string]string{
		"apiVersion: v1\nkind: ConfigMap\n":                            "not v1 Pod",
		strings.Replace(manifest, "name: web", "", 1):                  "metadata.name",
		strings.Replace(manifest, "spec:", "spec:\n  nope: 1", 1):      "nope",
		manifest + "  serviceAccountName: x\n":                         "serviceAccountName",
		manifest + "  volumes: [{name: v, secret: {secretName: s}}]\n": "spec.volumes[0]",
		"{": "parse manifest",
	} {
		if _, err := Decode([]byte(text), "f", "n"); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("Decode(%q) = %v, want an error about %q", text, err, want)
		}
	}
}

// recorder takes what a source tells.
type recorder struct{ events chan string }

func (r recorder) SetPod(_ Source, p *v1.Pod)  { r.events <- "set " + p.Name }
func (r recorder) DropPod(_ Source, p *v1.Pod) { r.events <- "drop " + p.Name }
func (r recorder) Synced(Source)               { r.events <- "synced" }

func TestStaticFolderIsFollowed(t *testing.T) {
	dir := t.TempDir()
	write := func(name, text string) {
		t.Helper()
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	write("web.yaml", manifest)
	write("broken.yaml", "nonsense: [")
	write("note.txt", "not a manifest")
	rec := recorder{make(chan string, 10)}
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan struct{})
	go func() {
		defer close(done)
		s := &Static{Path: dir, Node: "n", To: rec, Logger: slog.New(slog.DiscardHandler)}
		if err := s.Run(ctx); err != nil {
			t.Error(err)
		}
	}()
	defer func() { cancel(); <-done }()
	expect := func(want ...string) {
		t.Helper()
		for _, w := range want {
			select {
			case got := <-rec.events:
				if got != w {
					t.Fatalf("told %q, want %q", got, w)
				}
			case <-time.After(10 * time.Second):
				t.Fatalf("not told %q", w)
			}
		}
	}
	expect("set web-n", "synced")
	write("db.json", `{"apiVersion":"v1","kind":"Pod","metadata":{"name":"db"},"spec":{"containers":[{"name":"c","image":"i"}]}}`)
	expect("set db-n")
	write("web.yaml", strings.Replace(manifest, "img", "img:v2", 1))
	expect("drop web-n", "set web-n")
	if err := os.Remove(filepath.Join(dir, "db.json")); err != nil {
		t.Fatal(err)
	}
	expect("drop db-n")
}

func FuzzDecode(f *testing.F) {
	f.Add(manifest)
	f.Add("{}")
	f.Fuzz(func(t *testing.T, s string) {
		if p, err := Decode([]byte(s), "f", "n"); err == nil && (p.Name == "" || len(p.Spec.Containers) == 0) {
			t.Errorf("accepted a pod without name or containers: %q", s)
		}
	})
}
