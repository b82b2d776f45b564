package agent

import (
	"errors"
	"fmt"
	"os"
	"strings"
	"testing"
	"time"

	v1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/utils/ptr"

	"github.com/reevehq/reeve/internal/testenv"
)

const payloads = `
containers:
- {name: c, command: [sleep, "3600"], volumeMounts: [{name: cm, mountPath: /cm}, {name: sec, mountPath: /sec}, {name: down, mountPath: /down}, {name: all, mountPath: /all}, {name: cm, mountPath: /one, subPath: key}]}
volumes:
- {name: cm, configMap: {name: cm, defaultMode: 0440, items: [{key: key, path: key}, {key: key, path: deep/er/key, mode: 0400}]}}
- {name: sec, secret: {secretName: sec}}
- {name: down, downwardAPI: {items: [{path: labels, fieldRef: {fieldPath: metadata.labels}}, {path: cpu, resourceFieldRef: {containerName: c, resource: limits.cpu, divisor: 1m}}]}}
- name: all
  projected:
    defaultMode: 0444
    sources:
    - {configMap: {name: cm}}
    - {secret: {name: sec, items: [{key: password, path: secret/password, mode: 0400}]}}
    - {downwardAPI: {items: [{path: name, fieldRef: {fieldPath: metadata.name}}]}}
    - {configMap: {name: nowhere, optional: true}}
    - {secret: {name: nowhere, optional: true}}
`

// TestPayloadVolumes shows ConfigMaps, Secrets and the downward API as files, alone and projected into one, and that
// they follow their objects as a whole.
func TestPayloadVolumes(t *testing.T) {
	s := open(t)
	s.configMap("cm", map[string]string{"key": "v0", "twin": "v0"})
	s.secret("sec", map[string]string{"password": "hush"})
	s.pod("p", payloads, func(p *v1.Pod) { p.Labels = map[string]string{"a": "b"} })
	s.running("p")
	s.says("p", "c", "cat /cm/key /cm/deep/er/key /sec/password /one", "v0v0hushv0")
	s.says("p", "c", "stat -L -c %a /cm/key /cm/deep/er/key /sec/password /all/name /all/secret/password", "440 400 644 444 400")
	s.says("p", "c", "cat /down/labels; echo; cat /down/cpu | grep -q . && cat /all/name; echo; cat /all/key /all/secret/password", `a="b" p v0hush`)
	s.says("p", "c", "grep ' /sec ' /proc/mounts | cut -d' ' -f3", "tmpfs") // a Secret never touches the disk
	if out, err := s.exec("p", "c", "sh", "-c", "echo x > /cm/key"); err == nil || !strings.Contains(out, "Read-only") {
		t.Errorf("a ConfigMap's file could be written: %q, %v", out, err)
	}
	// A reader that opens the folder sees both files of one version, never a mix.
	go s.exec("p", "c", "sh", "-c", `cd /all; while [ ! -e /story/enough ]; do d=$(readlink ..data); a=$(cat $d/key 2>/dev/null) b=$(cat $d/twin 2>/dev/null) || continue; [ -d $d ] || continue; [ "$a" = "$b" ] || echo "$a/$b" >> /story/mixed; done; touch /story/done`)
	for i := 1; i <= 10; i++ {
		v := fmt.Sprintf("v%d", i)
		c, err := s.client.CoreV1().ConfigMaps(s.ns).Get(s.ctx(), "cm", metav1.GetOptions{})
		if err != nil {
			t.Fatal(err)
		}
		c.Data = map[string]string{"key": v, "twin": v}
		if _, err := s.client.CoreV1().ConfigMaps(s.ns).Update(s.ctx(), c, metav1.UpdateOptions{}); err != nil {
			t.Fatal(err)
		}
		start := time.Now()
		s.eventually("the new version", func() error {
			out, err := s.exec("p", "c", "cat", "/all/key", "/cm/key", "/cm/deep/er/key")
			return errors.Join(err, is("files", out, v+v+v))
		})
		t.Logf("change %d was seen after %s", i, time.Since(start).Round(time.Millisecond))
	}
	if err := os.WriteFile(s.path("enough"), nil, 0o644); err != nil {
		t.Fatal(err)
	}
	if got := s.read("mixed"); got != "" {
		t.Errorf("a reader saw mixtures: %s", got)
	}
	s.says("p", "c", "cat /one", "v0") // a subPath is what it was when the container started
	p := s.now("p")
	p.Labels["a"] = "c"
	if _, err := s.pods().Update(s.ctx(), p, metav1.UpdateOptions{}); err != nil {
		t.Fatal(err)
	}
	s.eventually("the new label", func() error {
		out, err := s.exec("p", "c", "cat", "/down/labels")
		return errors.Join(err, is("labels", strings.TrimSpace(out), `a="c"`))
	})
}

// TestPayloadObjectsComeLate starts pods before what they need: they wait, say for what, and start when it is there.
func TestPayloadObjectsComeLate(t *testing.T) {
	s := open(t)
	s.pod("p", payloads)
	s.event("p", "FailedMount", `"cm" not found`)
	s.event("p", "FailedMount", `"sec" not found`)
	s.pod("nokey", `{containers: [{name: c, command: [sleep, "3600"], volumeMounts: [{name: v, mountPath: /v}]}], volumes: [{name: v, configMap: {name: cm, items: [{key: none, path: x}]}}]}`)
	s.pod("optional", `{containers: [{name: c, command: [sh, -c, "ls -A /v; exec sleep 3600"], volumeMounts: [{name: v, mountPath: /v}]}], volumes: [{name: v, secret: {secretName: never, optional: true}}]}`)
	s.running("optional")
	s.configMap("cm", map[string]string{"key": "k"})
	s.secret("sec", map[string]string{"password": "p"})
	s.running("p")
	s.event("nokey", "FailedMount", "none")
	s.secret("never", map[string]string{"after": "all"})
	s.eventually("the optional Secret", func() error {
		out, err := s.exec("optional", "c", "cat", "/v/after")
		return errors.Join(err, is("file", out, "all"))
	})
}

// TestImmutableConfigMap keeps its first content, and shows its second after it was made anew for a new pod.
func TestImmutableConfigMap(t *testing.T) {
	s := open(t)
	if _, err := s.client.CoreV1().ConfigMaps(s.ns).Create(s.ctx(), &v1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Name: "cm"}, Immutable: ptr.To(true), Data: map[string]string{"key": "first"}}, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	text := `{containers: [{name: c, command: [sleep, "3600"], volumeMounts: [{name: v, mountPath: /v}]}], volumes: [{name: v, configMap: {name: cm}}]}`
	s.pod("p", text)
	s.running("p")
	if err := s.client.CoreV1().ConfigMaps(s.ns).Delete(s.ctx(), "cm", metav1.DeleteOptions{}); err != nil {
		t.Fatal(err)
	}
	s.says("p", "c", "cat /v/key", "first")
	s.delete("p")
	s.gone("p") // the last that used it, and with it what the node knew of it
	s.configMap("cm", map[string]string{"key": "second"})
	s.pod("q", text)
	s.running("q")
	s.says("q", "c", "cat /v/key", "second")
}

// TestServiceAccountToken mounts a token that the API server takes for the audience it was made for, and for no other.
func TestServiceAccountToken(t *testing.T) {
	s := open(t)
	s.pod("p", `{automountServiceAccountToken: true, securityContext: {runAsUser: 1000}, containers: [{name: c, command: [sleep, "3600"], volumeMounts: [{name: v, mountPath: /v}]}],
		volumes: [{name: v, projected: {sources: [{serviceAccountToken: {path: token, audience: vault, expirationSeconds: 600}}]}}]}`)
	p := s.running("p")
	s.says("p", "c", "stat -L -c '%a %u' /v/token; ls /var/run/secrets/kubernetes.io/serviceaccount", "600 1000 ca.crt namespace token")
	s.says("p", "c", "cat /var/run/secrets/kubernetes.io/serviceaccount/namespace", s.ns)
	token, err := s.exec("p", "c", "cat", "/v/token")
	if err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(s.reviewed(token, "vault", p), s.reviewed(token, "other", p)); err == nil || !strings.Contains(err.Error(), "other") || strings.Contains(err.Error(), "vault: ") {
		t.Errorf("reviews of the token: %v; want it good for vault alone", err)
	}
	if testenv.Long() {
		token = s.rotated(p, token)
	}
	// It dies with its pod.
	s.delete("p", 0)
	s.gone("p")
	s.eventually("the token to be void", func() error {
		if err := s.reviewed(token, "vault", p); err == nil {
			return errors.New("it is still good")
		}
		return nil
	})
}

// rotated waits for the token's successor, which comes at 80 % of its ten minutes; the container sees it in the same file,
// both are good then, and nothing is restarted.
func (s *space) rotated(p *v1.Pod, old string) string {
	s.t.Helper()
	deadline := time.Now().Add(rotationTimeout)
	for {
		now, err := s.exec(p.Name, "c", "cat", "/v/token")
		if err == nil && now != old {
			err = errors.Join(s.reviewed(now, "vault", p), s.reviewed(old, "vault", p), is("restarts", status(s.now(p.Name), "c").RestartCount, 0))
			if err != nil {
				s.t.Error(err)
			}
			return now
		}
		if time.Now().After(deadline) {
			s.t.Fatalf("the token was not renewed within %s (%v)", rotationTimeout, err)
		}
		time.Sleep(time.Second)
	}
}

// rotationTimeout is the life of the shortest token that the API gives.
const rotationTimeout = 10 * time.Minute
