package agent

import (
	"fmt"
	"os"
	"strings"
	"testing"

	v1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// env runs a pod that prints its environment, and returns that.
func (s *space) env(name, fields string, change ...func(*v1.Pod)) map[string]string {
	s.t.Helper()
	s.pod(name, `{restartPolicy: Never, containers: [{name: c, command: [env], `+fields+`}]}`, change...)
	s.ended(name, v1.PodSucceeded)
	out := map[string]string{}
	for line := range strings.Lines(s.logs(name, "c")) {
		k, v, _ := strings.Cut(strings.TrimSuffix(line, "\n"), "=")
		out[k] = v
	}
	return out
}

func (s *space) wantEnv(got map[string]string, want map[string]string) {
	s.t.Helper()
	for k, v := range want {
		if g, ok := got[k]; !ok || g != v {
			s.t.Errorf("%s=%q (there: %v), want %q", k, g, ok, v)
		}
	}
}

// TestEnv: plain values, references to earlier ones in values, commands and arguments, escapes, and what is not defined.
func TestEnv(t *testing.T) {
	s := open(t)
	s.wantEnv(s.env("p", `env: [{name: A, value: a}, {name: B, value: "$(A)-$(LATER)-$$(A)-$(NONE)"}, {name: LATER, value: l}, {name: "odd.name", value: x}]`),
		map[string]string{"A": "a", "B": "a-$(LATER)-$(A)-$(NONE)", "LATER": "l", "odd.name": "x"})
	s.pod("args", `{restartPolicy: Never, containers: [{name: c, command: [echo, "$(A)"], args: ["$(B)", "$$(A)", "$(NONE)"], env: [{name: A, value: a}, {name: B, value: b}]}]}`)
	s.ended("args", v1.PodSucceeded)
	if got := s.logs("args", "c"); got != "a b $(A) $(NONE)\n" {
		t.Errorf("command and arguments expand to %q", got)
	}
}

// TestEnvFromObjects: single keys and whole ConfigMaps and Secrets with and without a prefix, optional ones, the later
// winning; and a container that waits for what is missing starts when it comes.
func TestEnvFromObjects(t *testing.T) {
	s := open(t)
	s.configMap("cm", map[string]string{"k": "from-cm", "both": "cm", "odd.name-1": "x"})
	s.secret("sec", map[string]string{"k": "from-secret", "both": "secret"})
	got := s.env("p", `
envFrom: [{configMapRef: {name: cm}}, {secretRef: {name: sec}}, {prefix: P_, configMapRef: {name: cm}}, {configMapRef: {name: none, optional: true}}],
env: [{name: ONE, valueFrom: {configMapKeyRef: {name: cm, key: k}}}, {name: TWO, valueFrom: {secretKeyRef: {name: sec, key: k}}},
 {name: NOKEY, valueFrom: {configMapKeyRef: {name: cm, key: none, optional: true}}}, {name: NOMAP, valueFrom: {secretKeyRef: {name: none, key: k, optional: true}}}]`)
	s.wantEnv(got, map[string]string{"ONE": "from-cm", "TWO": "from-secret", "k": "from-secret", "both": "secret", "P_k": "from-cm", "odd.name-1": "x", "P_odd.name-1": "x"})
	for _, k := range []string{"NOKEY", "NOMAP"} {
		if _, ok := got[k]; ok {
			t.Errorf("%s is set though what it names is not there", k)
		}
	}

	s.pod("waits", `{restartPolicy: Never, containers: [{name: c, command: [sh, -c, "echo $X"], env: [{name: X, valueFrom: {configMapKeyRef: {name: late, key: k}}}]}]}`)
	s.wait("waits", "waiting", func(p *v1.Pod) error { return waiting(p, "c", "CreateContainerConfigError") })
	s.event("waits", "Failed", `configmap "late" not found`)
	s.configMap("late", map[string]string{"other": "x"})
	s.event("waits", "Failed", "couldn't find key k")
	cm, err := s.client.CoreV1().ConfigMaps(s.ns).Get(s.ctx(), "late", metav1.GetOptions{})
	if err != nil {
		t.Fatal(err)
	}
	cm.Data["k"] = "came"
	if _, err := s.client.CoreV1().ConfigMaps(s.ns).Update(s.ctx(), cm, metav1.UpdateOptions{}); err != nil {
		t.Fatal(err)
	}
	s.ended("waits", v1.PodSucceeded)
	if got := s.logs("waits", "c"); got != "came\n" {
		t.Errorf("log is %q", got)
	}
}

func (s *space) configMap(name string, data map[string]string) {
	s.t.Helper()
	if _, err := s.client.CoreV1().ConfigMaps(s.ns).Create(s.ctx(), &v1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Name: name}, Data: data}, metav1.CreateOptions{}); err != nil {
		s.t.Fatal(err)
	}
}

func (s *space) secret(name string, data map[string]string) {
	s.t.Helper()
	if _, err := s.client.CoreV1().Secrets(s.ns).Create(s.ctx(), &v1.Secret{ObjectMeta: metav1.ObjectMeta{Name: name}, StringData: data}, metav1.CreateOptions{}); err != nil {
		s.t.Fatal(err)
	}
}

// TestDownwardEnv: what a pod can learn of itself, its node and its resources, also where no limit is set.
func TestDownwardEnv(t *testing.T) {
	s := open(t)
	field := func(name, path string) string {
		return fmt.Sprintf(`{name: %s, valueFrom: {fieldRef: {fieldPath: "%s"}}}`, name, path)
	}
	res := func(name, container, resource, divisor string) string {
		return fmt.Sprintf(`{name: %s, valueFrom: {resourceFieldRef: {containerName: "%s", resource: %s, divisor: %s}}}`, name, container, resource, divisor)
	}
	vars := strings.Join([]string{
		field("NAME", "metadata.name"), field("NS", "metadata.namespace"), field("UID_", "metadata.uid"), field("LABEL", "metadata.labels['a']"),
		field("ANN", "metadata.annotations['b']"), field("NODE", "spec.nodeName"), field("SA", "spec.serviceAccountName"), field("HOST", "status.hostIP"),
		field("HOSTS", "status.hostIPs"), field("IP", "status.podIP"), field("IPS", "status.podIPs"),
		res("CPU", "", "limits.cpu", "1m"), res("CPUS", "", "limits.cpu", `"1"`), res("MEM", "c", "requests.memory", "1Mi"), res("MEMB", "", "limits.memory", `"0"`),
		res("DISK", "", "requests.ephemeral-storage", "1Ki"), res("OTHER", "d", "limits.cpu", "1m"), res("NODEMEM", "d", "limits.memory", "1"),
	}, ", ")
	s.pod("p", `
restartPolicy: Never
containers:
- {name: c, command: [env], env: [`+vars+`], resources: {limits: {cpu: 1500m, memory: 64Mi}, requests: {cpu: 10m, memory: 32Mi, ephemeral-storage: 2Ki}}}
- {name: d, command: ["true"]}
`, func(p *v1.Pod) { p.Labels, p.Annotations = map[string]string{"a": "x"}, map[string]string{"b": "y z"} })
	p := s.ended("p", v1.PodSucceeded)
	got := map[string]string{}
	for line := range strings.Lines(s.logs("p", "c")) {
		k, v, _ := strings.Cut(strings.TrimSuffix(line, "\n"), "=")
		got[k] = v
	}
	n, err := s.client.CoreV1().Nodes().Get(s.ctx(), "node-a", metav1.GetOptions{})
	if err != nil {
		t.Fatal(err)
	}
	cpu, memory := n.Status.Allocatable[v1.ResourceCPU], n.Status.Allocatable[v1.ResourceMemory]
	s.wantEnv(got, map[string]string{
		"NAME": "p", "NS": s.ns, "UID_": string(p.UID), "LABEL": "x", "ANN": "y z", "NODE": "node-a", "SA": "default", "HOST": "10.100.0.1", "HOSTS": "10.100.0.1",
		"IP": p.Status.PodIP, "IPS": p.Status.PodIP, "CPU": "1500", "CPUS": "2", "MEM": "32", "MEMB": "67108864", "DISK": "2",
		"OTHER": fmt.Sprint(cpu.MilliValue()), "NODEMEM": fmt.Sprint(memory.Value()),
	})
}

// TestServiceEnv: a pod sees the Services of its namespace that were there before it, and kubernetes; with
// enableServiceLinks false only that.
func TestServiceEnv(t *testing.T) {
	s := open(t)
	svc, err := s.client.CoreV1().Services(s.ns).Create(s.ctx(), &v1.Service{ObjectMeta: metav1.ObjectMeta{Name: "foo-svc"},
		Spec: v1.ServiceSpec{Ports: []v1.ServicePort{{Name: "web", Port: 8765}}}}, metav1.CreateOptions{})
	if err != nil {
		t.Fatal(err)
	}
	var got map[string]string
	try := 0
	s.eventually("the Service in the environment", func() error { // the node hears of it in its own time
		try++
		got = s.env(fmt.Sprint("p", try), "env: []")
		return is("FOO_SVC_SERVICE_HOST", got["FOO_SVC_SERVICE_HOST"], svc.Spec.ClusterIP)
	})
	s.wantEnv(got, map[string]string{"FOO_SVC_SERVICE_PORT": "8765", "FOO_SVC_SERVICE_PORT_WEB": "8765", "FOO_SVC_PORT": "tcp://" + svc.Spec.ClusterIP + ":8765",
		"FOO_SVC_PORT_8765_TCP_ADDR": svc.Spec.ClusterIP, "KUBERNETES_SERVICE_HOST": "10.96.0.1", "KUBERNETES_SERVICE_PORT": "443"})
	without := s.env("without", "env: []", func(p *v1.Pod) { no := false; p.Spec.EnableServiceLinks = &no })
	if _, ok := without["FOO_SVC_SERVICE_HOST"]; ok || without["KUBERNETES_SERVICE_HOST"] == "" {
		t.Errorf("without service links: %v", without)
	}
}

// TestSubPathExpr: a folder whose name comes from the environment, and names that would lead out of the volume.
func TestSubPathExpr(t *testing.T) {
	s := open(t)
	one := func(name, expr, value string) {
		s.pod(name, `
restartPolicy: Never
volumes: [{name: v, emptyDir: {}}]
containers:
- name: c
  command: [sh, -c, "echo made > /sub/f; cat /v/*/f"]
  env: [{name: X, value: "`+value+`"}, {name: POD, valueFrom: {fieldRef: {fieldPath: metadata.name}}}]
  volumeMounts: [{name: v, mountPath: /v}, {name: v, mountPath: /sub, subPathExpr: "`+expr+`"}]
`)
	}
	one("good", "$(POD)", "")
	s.ended("good", v1.PodSucceeded)
	if got := s.logs("good", "c"); got != "made\n" {
		t.Errorf("log is %q", got)
	}
	for name, c := range map[string][2]string{"absolute": {"$(X)", "/tmp"}, "up": {"$(X)/x", ".."}, "unknown": {"$(NONE)", ""}} {
		one(name, c[0], c[1])
		s.wait(name, "refused", func(p *v1.Pod) error { return waiting(p, "c", "CreateContainerConfigError") })
	}
	if _, err := os.Stat("/tmp/f"); err == nil {
		t.Error("a container wrote outside of its volume")
	}
}
