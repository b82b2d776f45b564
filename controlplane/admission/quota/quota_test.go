package quota

import (
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apiserver/pkg/admission"
	quotav1 "k8s.io/apiserver/pkg/quota/v1"
	"k8s.io/client-go/informers"
	"k8s.io/client-go/kubernetes/fake"
	"k8s.io/client-go/kubernetes/scheme"
	"k8s.io/client-go/tools/cache"
	"sigs.k8s.io/yaml"
)

var now = time.Date(2026, 1, 1, 12, 0, 0, 0, time.UTC)

func parse(t *testing.T, manifest string) runtime.Object {
	t.Helper()
	raw, err := yaml.YAMLToJSON([]byte(manifest))
	if err != nil {
		t.Fatal(err)
	}
	obj, _, err := scheme.Codecs.UniversalDeserializer().Decode(raw, nil, nil)
	if err != nil {
		t.Fatal(err)
	}
	return obj
}

func evaluatorOf(t *testing.T, c quotav1.Configuration, gr schema.GroupResource) quotav1.Evaluator {
	t.Helper()
	for _, e := range c.Evaluators() {
		if e.GroupResource() == gr {
			return e
		}
	}
	t.Fatalf("no evaluator for %s", gr)
	return nil
}

func TestUsage(t *testing.T) {
	c := NewConfiguration(nil, func() time.Time { return now })
	pods, services := corev1.Resource("pods"), corev1.Resource("services")
	claims, devices := corev1.Resource("persistentvolumeclaims"), schema.GroupResource{Group: "resource.k8s.io", Resource: "resourceclaims"}
	const spec = `containers: [{name: a, resources: {requests: {cpu: 1, memory: 1Mi, example.com/gpu: 2}, limits: {cpu: 2, example.com/gpu: 2}}}, {name: b, resources: {requests: {cpu: 500m}}}], initContainers: [{name: i, resources: {requests: {cpu: 3}}}]`
	for _, tc := range []struct {
		name     string
		gr       schema.GroupResource
		manifest string
		want     map[string]string
	}{
		{"pod", pods, `{apiVersion: v1, kind: Pod, spec: {` + spec + `}}`, map[string]string{"count/pods": "1", "pods": "1", "cpu": "3", "requests.cpu": "3",
			"memory": "1Mi", "requests.memory": "1Mi", "limits.cpu": "2", "requests.example.com/gpu": "2"}},
		{"finished pod", pods, `{apiVersion: v1, kind: Pod, spec: {` + spec + `}, status: {phase: Succeeded}}`, map[string]string{"count/pods": "1"}},
		{"pod that should be gone", pods, `{apiVersion: v1, kind: Pod, metadata: {deletionTimestamp: "2026-01-01T11:00:00Z", deletionGracePeriodSeconds: 30}, spec: {` + spec + `}}`, map[string]string{"count/pods": "1"}},
		{"node ports", services, `{apiVersion: v1, kind: Service, spec: {type: NodePort, ports: [{port: 1}, {port: 2}]}}`,
			map[string]string{"count/services": "1", "services": "1", "services.nodeports": "2", "services.loadbalancers": "0"}},
		{"balancer without node ports", services, `{apiVersion: v1, kind: Service, spec: {type: LoadBalancer, allocateLoadBalancerNodePorts: false, ports: [{port: 1}, {port: 2, nodePort: 30000}]}}`,
			map[string]string{"count/services": "1", "services": "1", "services.nodeports": "1", "services.loadbalancers": "1"}},
		{"claim", claims, `{apiVersion: v1, kind: PersistentVolumeClaim, spec: {storageClassName: fast, resources: {requests: {storage: 1Gi}}}}`,
			map[string]string{"count/persistentvolumeclaims": "1", "persistentvolumeclaims": "1", "requests.storage": "1Gi",
				"fast.storageclass.storage.k8s.io/requests.storage": "1Gi", "fast.storageclass.storage.k8s.io/persistentvolumeclaims": "1"}},
		{"devices", devices, `{apiVersion: resource.k8s.io/v1, kind: ResourceClaim, spec: {devices: {requests: [{name: a, exactly: {deviceClassName: gpu, allocationMode: ExactCount, count: 2}},
 {name: b, firstAvailable: [{name: c, deviceClassName: gpu, allocationMode: ExactCount, count: 1}, {name: d, deviceClassName: tpu, allocationMode: All}]}]}}}`,
			map[string]string{"count/resourceclaims.resource.k8s.io": "1", "gpu.deviceclass.resource.k8s.io/devices": "3", "tpu.deviceclass.resource.k8s.io/devices": "32"}},
	} {
		t.Run(tc.name, func(t *testing.T) {
			e := evaluatorOf(t, c, tc.gr)
			usage, err := e.Usage(parse(t, tc.manifest))
			if err != nil {
				t.Fatal(err)
			}
			got := map[string]string{}
			var names []corev1.ResourceName
			for n, q := range usage {
				got[string(n)] = q.String()
				names = append(names, n)
			}
			if d := cmp.Diff(tc.want, got); d != "" {
				t.Error(d)
			}
			if matched := e.MatchingResources(names); len(matched) != len(names) {
				t.Errorf("of what it takes, %v, only %v is matched by quotas", names, matched)
			}
			if _, err := e.Usage(&corev1.Namespace{}); err == nil {
				t.Error("an object of another type was measured")
			}
		})
	}
}

func TestConstraints(t *testing.T) {
	e := evaluatorOf(t, NewConfiguration(nil, func() time.Time { return now }), corev1.Resource("pods"))
	required := []corev1.ResourceName{"pods", "requests.cpu", "limits.memory", "requests.ephemeral-storage"}
	for _, tc := range []struct{ spec, want string }{
		{`{containers: [{name: b}, {name: a}]}`, "must specify limits.memory for: a,b; requests.cpu for: a,b"},
		{`{containers: [{name: a, resources: {requests: {cpu: 1}, limits: {memory: 1}}}], initContainers: [{name: i, resources: {requests: {cpu: 1}}}]}`, "must specify limits.memory for: i"},
		{`{resources: {requests: {cpu: 1}, limits: {memory: 1}}, containers: [{name: a}]}`, ""},
	} {
		err := e.Constraints(required, parse(t, `{apiVersion: v1, kind: Pod, spec: `+tc.spec+`}`))
		got := ""
		if err != nil {
			got = err.Error()
		}
		if got != tc.want {
			t.Errorf("%s: %q, want %q", tc.spec, got, tc.want)
		}
	}
}

func TestScopes(t *testing.T) {
	e := evaluatorOf(t, NewConfiguration(nil, func() time.Time { return now }), corev1.Resource("pods"))
	for _, tc := range []struct{ spec, scope, operator, value string }{
		{`{activeDeadlineSeconds: 1}`, "Terminating", "Exists", ""},
		{`{}`, "NotTerminating", "Exists", ""},
		{`{containers: [{name: a}]}`, "BestEffort", "Exists", ""},
		{`{containers: [{name: a, resources: {limits: {cpu: 1}}}]}`, "NotBestEffort", "Exists", ""},
		{`{priorityClassName: high}`, "PriorityClass", "In", "high"},
		{`{priorityClassName: low}`, "PriorityClass", "NotIn", "high"},
		{`{priorityClassName: low}`, "PriorityClass", "Exists", ""},
		{`{affinity: {podAffinity: {requiredDuringSchedulingIgnoredDuringExecution: [{topologyKey: z, namespaces: [x]}]}}}`, "CrossNamespacePodAffinity", "Exists", ""},
	} {
		requirement := corev1.ScopedResourceSelectorRequirement{ScopeName: corev1.ResourceQuotaScope(tc.scope), Operator: corev1.ScopeSelectorOperator(tc.operator)}
		if tc.value != "" {
			requirement.Values = []string{tc.value}
		}
		got, err := e.MatchingScopes(parse(t, `{apiVersion: v1, kind: Pod, spec: `+tc.spec+`}`), []corev1.ScopedResourceSelectorRequirement{requirement})
		if err != nil || len(got) != 1 {
			t.Errorf("%s is not in scope %s (%v)", tc.spec, tc.scope, err)
		}
		got, err = e.MatchingScopes(parse(t, `{apiVersion: v1, kind: Pod, spec: {activeDeadlineSeconds: null}}`), []corev1.ScopedResourceSelectorRequirement{requirement})
		if empty := tc.scope == "NotTerminating" || tc.scope == "BestEffort" || tc.operator == "NotIn"; err != nil || (len(got) == 1) != empty {
			t.Errorf("an empty pod and scope %s %s: %v, %v", tc.scope, tc.operator, got, err)
		}
	}
}

func TestUsageStats(t *testing.T) {
	client := fake.NewClientset()
	factory := informers.NewSharedInformerFactory(client, 0)
	index := factory.Core().V1().Pods().Informer().GetIndexer()
	for _, m := range []string{
		`{apiVersion: v1, kind: Pod, metadata: {name: a, namespace: x}, spec: {containers: [{name: a, resources: {requests: {cpu: 1}}}]}}`,
		`{apiVersion: v1, kind: Pod, metadata: {name: b, namespace: x}, spec: {containers: [{name: a, resources: {requests: {cpu: 2}}}]}}`,
		`{apiVersion: v1, kind: Pod, metadata: {name: c, namespace: z}, spec: {containers: [{name: a, resources: {requests: {cpu: 4}}}]}}`,
	} {
		if err := index.Add(parse(t, m)); err != nil {
			t.Fatal(err)
		}
	}
	lister := func(r schema.GroupVersionResource) (cache.GenericLister, error) {
		i, err := factory.ForResource(r)
		if err != nil {
			return nil, err
		}
		return i.Lister(), nil
	}
	e := evaluatorOf(t, NewConfiguration(lister, func() time.Time { return now }), corev1.Resource("pods"))
	stats, err := e.UsageStats(quotav1.UsageStatsOptions{Namespace: "x", Resources: []corev1.ResourceName{"requests.cpu", "pods"}})
	if err != nil {
		t.Fatal(err)
	}
	if cpu, pods := stats.Used["requests.cpu"], stats.Used["pods"]; cpu.String() != "3" || pods.String() != "2" {
		t.Errorf("used %v", stats.Used)
	}
}

func TestHandles(t *testing.T) {
	e := evaluatorOf(t, NewConfiguration(nil, func() time.Time { return now }), corev1.Resource("pods"))
	for _, tc := range []struct {
		op   admission.Operation
		sub  string
		want bool
	}{{admission.Create, "", true}, {admission.Create, "binding", false}, {admission.Update, "", false}, {admission.Update, "resize", true}, {admission.Delete, "", false}} {
		a := admission.NewAttributesRecord(nil, nil, schema.GroupVersionKind{}, "", "", corev1.SchemeGroupVersion.WithResource("pods"), tc.sub, tc.op, nil, false, nil)
		if got := e.Handles(a); got != tc.want {
			t.Errorf("%s %q: %t", tc.op, tc.sub, got)
		}
	}
}
