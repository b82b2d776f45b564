package agent

import (
	"fmt"
	"strings"
	"testing"

	v1 "k8s.io/api/core/v1"
)

// TestAdmission puts pods on the node past the scheduler: each that does not fit fails with the reason that tools know,
// and starts nothing.
func TestAdmission(t *testing.T) {
	s := open(t)
	s.pod("holder", `{nodeName: node-a, containers: [{name: c, command: [sleep, "1000"], ports: [{containerPort: 80, hostPort: 31999}]}]}`)
	s.running("holder")
	c := `containers: [{name: c, command: [sh, -c, "echo started >> /story/log"]`
	for name, x := range map[string]struct{ text, reason, message string }{
		"cpu":      {c + `, resources: {requests: {cpu: 9999}}}]`, "OutOfcpu", "Node didn't have enough resource: cpu, requested: 9999000"},
		"memory":   {c + `, resources: {requests: {memory: 999Ti}}}]`, "OutOfmemory", "memory"},
		"selector": {`nodeSelector: {no: such}, ` + c + `}]`, "NodeAffinity", "node affinity/selector"},
		"affinity": {`affinity: {nodeAffinity: {requiredDuringSchedulingIgnoredDuringExecution: {nodeSelectorTerms: [{matchExpressions: [{key: no, operator: Exists}]}]}}}, ` + c + `}]`, "NodeAffinity", "node affinity"},
		"port":     {c + `, ports: [{containerPort: 80, hostPort: 31999}]}]`, "NodePorts", "free ports"},
		"sysctl":   {`securityContext: {sysctls: [{name: kernel.msgmax, value: "1000"}]}, ` + c + `}]`, "SysctlForbidden", "kernel.msgmax"},
		"apparmor": {c + `, securityContext: {appArmorProfile: {type: RuntimeDefault}}}]`, "AppArmor", "not enabled on the host"},
		"claims":   {`resourceClaims: [{name: gpu, resourceClaimName: gpu}], ` + c + `}]`, "PodFeatureUnsupported", "spec.resourceClaims"},
		"restarts": {c + `, restartPolicy: Never, restartPolicyRules: [{action: RestartAllContainers, exitCodes: {operator: In, values: [42]}}]}]`, "PodFeatureUnsupported", "restartPolicyRules[0].action"},
		"os-label": {`nodeSelector: {kubernetes.io/os: plan9}, ` + c + `}]`, "PodOSSelectorNodeLabelDoesNotMatch", "kubernetes.io/os"},
	} {
		t.Run(name, func(t *testing.T) {
			s := s.sub(t)
			s.pod(name, `{restartPolicy: Never, nodeName: node-a, `+x.text+`}`)
			p := s.ended(name, v1.PodFailed)
			if p.Status.Reason != x.reason || !strings.Contains(p.Status.Message, x.message) || !strings.HasPrefix(p.Status.Message, "Pod was rejected: ") {
				t.Errorf("rejected with %s: %s; want %s: …%s…", p.Status.Reason, p.Status.Message, x.reason, x.message)
			}
			s.event(name, x.reason, x.message)
		})
	}
	t.Cleanup(func() {
		if got := s.read("log"); got != "" {
			t.Errorf("rejected pods ran: %q", got)
		}
	})
}

// TestWaitingReasons: why a container does not run stands in its status and in an Event.
func TestWaitingReasons(t *testing.T) {
	s := open(t)
	for name, x := range map[string]struct{ container, reason, event, message string }{
		"no-image":    {`image: "localhost/none:v1"`, "ErrImageNeverPull", "ErrImageNeverPull", "localhost/none:v1"},
		"bad-name":    {`image: "Not A Name"`, "InvalidImageName", "InspectFailed", "Not A Name"},
		"no-registry": {`image: "127.0.0.1:1/none:v1", imagePullPolicy: Always`, "ErrImagePull", "Failed", "connection refused"},
		"no-program":  {`command: [/no/such/program]`, "RunContainerError", "Failed", "no such file"},
		"no-config":   {`command: ["true"], env: [{name: X, valueFrom: {secretKeyRef: {name: none, key: k}}}]`, "CreateContainerConfigError", "Failed", `secret "none" not found`},
		"non-root":    {`command: ["true"], securityContext: {runAsNonRoot: true}`, "CreateContainerConfigError", "Failed", "runAsNonRoot"},
	} {
		t.Run(name, func(t *testing.T) {
			s := s.sub(t)
			s.pod(name, `{containers: [{name: c, `+x.container+`}]}`)
			s.wait(name, "waiting for "+x.reason, func(p *v1.Pod) error { return waiting(p, "c", x.reason) })
			s.event(name, x.event, x.message)
		})
	}
}

// lines are numbered lines of a log.
func lines(from, to int) string {
	var b strings.Builder
	for i := from; i <= to; i++ {
		fmt.Fprintf(&b, "line%d\n", i)
	}
	return b.String()
}
