package admission

import (
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apiserver/pkg/admission"
	"k8s.io/client-go/kubernetes/fake"
	clienttesting "k8s.io/client-go/testing"
	"k8s.io/utils/ptr"
)

func TestServiceAccount(t *testing.T) {
	const pod = `{apiVersion: v1, kind: Pod, metadata: {name: p, namespace: a}, spec: {containers: [{name: c}], initContainers: [{name: i}]}}`
	cluster := func(t *testing.T) []runtime.Object {
		return []runtime.Object{
			parse[runtime.Object](t, `{apiVersion: v1, kind: ServiceAccount, metadata: {name: default, namespace: a}, imagePullSecrets: [{name: reg}]}`),
			parse[runtime.Object](t, `{apiVersion: v1, kind: ServiceAccount, metadata: {name: quiet, namespace: a}, automountServiceAccountToken: false}`),
			parse[runtime.Object](t, `{apiVersion: v1, kind: ServiceAccount, metadata: {name: strict, namespace: a, annotations: {kubernetes.io/enforce-mountable-secrets: "true"}}, secrets: [{name: mine}]}`),
		}
	}
	for _, tc := range []struct {
		name  string
		do    func(*corev1.Pod)
		err   string
		check func(*testing.T, *corev1.Pod)
	}{
		{"default account, token and pull secrets", func(*corev1.Pod) {}, "", func(t *testing.T, p *corev1.Pod) {
			if p.Spec.ServiceAccountName != "default" || p.Spec.DeprecatedServiceAccount != "default" {
				t.Errorf("account %q, old name %q", p.Spec.ServiceAccountName, p.Spec.DeprecatedServiceAccount)
			}
			if len(p.Spec.ImagePullSecrets) != 1 || p.Spec.ImagePullSecrets[0].Name != "reg" {
				t.Errorf("pull secrets %v", p.Spec.ImagePullSecrets)
			}
			if len(p.Spec.Volumes) != 1 || !strings.HasPrefix(p.Spec.Volumes[0].Name, "kube-api-access-") || len(p.Spec.Volumes[0].Name) != len("kube-api-access-")+5 {
				t.Fatalf("volumes %v", p.Spec.Volumes)
			}
			if d := cmp.Diff(tokenVolume(p.Spec.Volumes[0].Name), p.Spec.Volumes[0]); d != "" {
				t.Error(d)
			}
			for _, c := range []corev1.Container{p.Spec.Containers[0], p.Spec.InitContainers[0]} {
				want := []corev1.VolumeMount{{Name: p.Spec.Volumes[0].Name, ReadOnly: true, MountPath: "/var/run/secrets/kubernetes.io/serviceaccount"}}
				if d := cmp.Diff(want, c.VolumeMounts); d != "" {
					t.Error(d)
				}
			}
		}},
		{"unknown account", func(p *corev1.Pod) { p.Spec.ServiceAccountName = "x" }, `error looking up service account a/x: serviceaccounts "x" not found`, nil},
		{"account without token", func(p *corev1.Pod) { p.Spec.ServiceAccountName = "quiet" }, "", noVolumes},
		{"pod wants one all the same", func(p *corev1.Pod) {
			p.Spec.ServiceAccountName = "quiet"
			p.Spec.AutomountServiceAccountToken = ptr.To(true)
		}, "", func(t *testing.T, p *corev1.Pod) {
			if len(p.Spec.Volumes) != 1 {
				t.Errorf("volumes %v", p.Spec.Volumes)
			}
		}},
		{"pod wants none", func(p *corev1.Pod) { p.Spec.AutomountServiceAccountToken = ptr.To(false) }, "", noVolumes},
		{"own mounts at the path", func(p *corev1.Pod) {
			for _, c := range []*corev1.Container{&p.Spec.Containers[0], &p.Spec.InitContainers[0]} {
				c.VolumeMounts = []corev1.VolumeMount{{Name: "mine", MountPath: tokenMountPath}}
			}
		}, "", noVolumes},
		{"a copied pod keeps its volume", func(p *corev1.Pod) { p.Spec.Volumes = []corev1.Volume{tokenVolume("kube-api-access-abcde")} }, "", func(t *testing.T, p *corev1.Pod) {
			if len(p.Spec.Volumes) != 1 || p.Spec.Containers[0].VolumeMounts[0].Name != "kube-api-access-abcde" {
				t.Errorf("volumes %v, mounts %v", p.Spec.Volumes, p.Spec.Containers[0].VolumeMounts)
			}
		}},
		{"own pull secrets", func(p *corev1.Pod) { p.Spec.ImagePullSecrets = []corev1.LocalObjectReference{{Name: "own"}} }, "", func(t *testing.T, p *corev1.Pod) {
			if len(p.Spec.ImagePullSecrets) != 1 || p.Spec.ImagePullSecrets[0].Name != "own" {
				t.Errorf("pull secrets %v", p.Spec.ImagePullSecrets)
			}
		}},
		{"mirror pod", mirror, "", func(t *testing.T, p *corev1.Pod) {
			noVolumes(t, p)
			if p.Spec.ServiceAccountName != "" {
				t.Error("a mirror pod was given an account")
			}
		}},
		{"mirror pod with account", func(p *corev1.Pod) { mirror(p); p.Spec.ServiceAccountName = "default" }, "may not reference service accounts", nil},
		{"mirror pod with secret", func(p *corev1.Pod) {
			mirror(p)
			p.Spec.Volumes = []corev1.Volume{{VolumeSource: corev1.VolumeSource{Secret: &corev1.SecretVolumeSource{SecretName: "s"}}}}
		}, "may not reference secrets", nil},
		{"mirror pod with token", func(p *corev1.Pod) { mirror(p); p.Spec.Volumes = []corev1.Volume{tokenVolume("x")} }, "may not use ServiceAccountToken", nil},
		{"secret not listed", func(p *corev1.Pod) {
			p.Spec.ServiceAccountName = "strict"
			p.Spec.Containers[0].EnvFrom = []corev1.EnvFromSource{{SecretRef: &corev1.SecretEnvSource{LocalObjectReference: corev1.LocalObjectReference{Name: "other"}}}}
		}, `secret "other" is not listed in service account strict`, nil},
		{"secret listed", func(p *corev1.Pod) {
			p.Spec.ServiceAccountName = "strict"
			p.Spec.Volumes = []corev1.Volume{{Name: "s", VolumeSource: corev1.VolumeSource{Secret: &corev1.SecretVolumeSource{SecretName: "mine"}}}}
		}, "", nil},
	} {
		t.Run(tc.name, func(t *testing.T) {
			plugin := newServiceAccount()
			start(t, plugin, nil, cluster(t)...)
			p := parse[*corev1.Pod](t, pod)
			tc.do(p)
			err := run(t, plugin, request{op: admission.Create, resource: podResource, obj: p})
			wantErr(t, err, tc.err)
			if err == nil && tc.check != nil {
				tc.check(t, p)
			}
		})
	}
}

// TestDefaultAccountIsAwaited: a namespace and a pod in it are often made in one go, before the account is.
func TestDefaultAccountIsAwaited(t *testing.T) {
	plugin := newServiceAccount().(*serviceAccount)
	plugin.retry = time.Millisecond
	start(t, plugin, nil)
	asked := 0
	plugin.client.(*fake.Clientset).PrependReactor("get", "serviceaccounts", func(clienttesting.Action) (bool, runtime.Object, error) {
		if asked++; asked < 3 {
			return false, nil, nil
		}
		account := &corev1.ServiceAccount{}
		account.Name, account.Namespace = "default", "a"
		return true, account, nil
	})
	p := &corev1.Pod{}
	p.Namespace = "a"
	wantErr(t, run(t, plugin, request{op: admission.Create, resource: podResource, obj: p}), "")
	if asked < 3 {
		t.Errorf("asked %d times", asked)
	}
}

func mirror(p *corev1.Pod) {
	p.Annotations = map[string]string{corev1.MirrorPodAnnotationKey: "x"}
	p.Spec.NodeName = "n"
}

func noVolumes(t *testing.T, p *corev1.Pod) {
	t.Helper()
	if len(p.Spec.Volumes) > 0 {
		t.Errorf("volumes %v", p.Spec.Volumes)
	}
}

func TestPriority(t *testing.T) {
	const high = `{apiVersion: scheduling.k8s.io/v1, kind: PriorityClass, metadata: {name: high}, value: 100, preemptionPolicy: Never}`
	const standard = `{apiVersion: scheduling.k8s.io/v1, kind: PriorityClass, metadata: {name: standard}, value: 7, globalDefault: true}`
	for _, tc := range []struct {
		name    string
		classes []string
		spec    string
		value   int32
		class   string
		policy  corev1.PreemptionPolicy
		err     string
	}{
		{"no class, no default", nil, `{}`, 0, "", "PreemptLowerPriority", ""},
		{"default class", []string{high, standard}, `{}`, 7, "standard", "PreemptLowerPriority", ""},
		{"named class", []string{high, standard}, `{priorityClassName: high}`, 100, "high", "Never", ""},
		{"unknown class", nil, `{priorityClassName: high}`, 0, "", "", "no PriorityClass with name high was found"},
		{"system class before its object", nil, `{priorityClassName: system-node-critical}`, 2000001000, "system-node-critical", "PreemptLowerPriority", ""},
		{"right number", []string{high}, `{priorityClassName: high, priority: 100, preemptionPolicy: Never}`, 100, "high", "Never", ""},
		{"wrong number", []string{high}, `{priorityClassName: high, priority: 1}`, 0, "", "", "must not be provided in pod spec"},
		{"wrong policy", []string{high}, `{priorityClassName: high, preemptionPolicy: PreemptLowerPriority}`, 0, "", "", "PreemptionPolicy (PreemptLowerPriority) must not be provided"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			var objects []runtime.Object
			for _, c := range tc.classes {
				objects = append(objects, parse[runtime.Object](t, c))
			}
			plugin := newPriority()
			start(t, plugin, nil, objects...)
			p := parse[*corev1.Pod](t, `{apiVersion: v1, kind: Pod, metadata: {name: p, namespace: a}, spec: `+tc.spec+`}`)
			err := run(t, plugin, request{op: admission.Create, resource: podResource, obj: p})
			wantErr(t, err, tc.err)
			if err != nil {
				return
			}
			if *p.Spec.Priority != tc.value || p.Spec.PriorityClassName != tc.class || *p.Spec.PreemptionPolicy != tc.policy {
				t.Errorf("priority %d of class %q with %s", *p.Spec.Priority, p.Spec.PriorityClassName, *p.Spec.PreemptionPolicy)
			}
			// An update by a client that does not know the fields keeps them.
			now := p.DeepCopy()
			now.Spec.Priority, now.Spec.PreemptionPolicy = nil, nil
			wantErr(t, run(t, plugin, request{op: admission.Update, resource: podResource, obj: now, old: p}), "")
			if d := cmp.Diff(p, now); d != "" {
				t.Errorf("update changed the pod:\n%s", d)
			}
		})
	}
}

func TestOnlyOneDefaultPriority(t *testing.T) {
	standard := parse[runtime.Object](t, `{apiVersion: scheduling.k8s.io/v1, kind: PriorityClass, metadata: {name: standard}, value: 7, globalDefault: true}`)
	other := parse[runtime.Object](t, `{apiVersion: scheduling.k8s.io/v1, kind: PriorityClass, metadata: {name: other}, value: 8, globalDefault: true}`)
	plugin := newPriority()
	start(t, plugin, nil, standard)
	resource := corev1.SchemeGroupVersion.WithResource("priorityclasses")
	resource.Group = "scheduling.k8s.io"
	wantErr(t, run(t, plugin, request{op: admission.Create, resource: resource, obj: other}), "standard is already marked as default")
	wantErr(t, run(t, plugin, request{op: admission.Update, resource: resource, obj: standard, old: standard}), "")
}

func TestDefaultTolerationSeconds(t *testing.T) {
	ours := []corev1.Toleration{
		{Key: "node.kubernetes.io/not-ready", Operator: "Exists", Effect: "NoExecute", TolerationSeconds: ptr.To[int64](300)},
		{Key: "node.kubernetes.io/unreachable", Operator: "Exists", Effect: "NoExecute", TolerationSeconds: ptr.To[int64](300)},
	}
	for _, tc := range []struct {
		name       string
		have, want []corev1.Toleration
	}{
		{"none", nil, ours},
		{"tolerates everything", []corev1.Toleration{{Operator: "Exists"}}, []corev1.Toleration{{Operator: "Exists"}}},
		{"tolerates one by itself", []corev1.Toleration{{Key: "node.kubernetes.io/not-ready", Operator: "Exists"}},
			[]corev1.Toleration{{Key: "node.kubernetes.io/not-ready", Operator: "Exists"}, ours[1]}},
		{"another effect", []corev1.Toleration{{Operator: "Exists", Effect: "NoSchedule"}}, append([]corev1.Toleration{{Operator: "Exists", Effect: "NoSchedule"}}, ours...)},
	} {
		t.Run(tc.name, func(t *testing.T) {
			for _, op := range []admission.Operation{admission.Create, admission.Update} {
				p := &corev1.Pod{Spec: corev1.PodSpec{Tolerations: append([]corev1.Toleration(nil), tc.have...)}}
				wantErr(t, run(t, newDefaultTolerationSeconds(), request{op: op, resource: podResource, obj: p, old: p}), "")
				if d := cmp.Diff(tc.want, p.Spec.Tolerations); d != "" {
					t.Errorf("%s: %s", op, d)
				}
			}
		})
	}
}

func TestTaintNodesByCondition(t *testing.T) {
	taint := corev1.Taint{Key: "node.kubernetes.io/not-ready", Effect: "NoSchedule"}
	for _, have := range [][]corev1.Taint{nil, {taint}, {{Key: "a", Effect: "NoExecute"}}} {
		n := &corev1.Node{Spec: corev1.NodeSpec{Taints: append([]corev1.Taint(nil), have...)}}
		wantErr(t, run(t, newTaintNodesByCondition(), request{op: admission.Create, resource: nodeResource, obj: n}), "")
		count := 0
		for _, x := range n.Spec.Taints {
			if x == taint {
				count++
			}
		}
		if count != 1 {
			t.Errorf("from %v to %v: the taint is there %d times", have, n.Spec.Taints, count)
		}
	}
}

func TestExtendedResourceToleration(t *testing.T) {
	p := parse[*corev1.Pod](t, `{apiVersion: v1, kind: Pod, spec: {containers: [{name: a, resources: {requests: {cpu: 1, example.com/gpu: 1, kubernetes.io/x: 1}}}]}}`)
	for range 2 {
		wantErr(t, run(t, newExtendedResourceToleration(), request{op: admission.Create, resource: podResource, obj: p}), "")
		if d := cmp.Diff([]corev1.Toleration{{Key: "example.com/gpu", Operator: "Exists"}}, p.Spec.Tolerations); d != "" {
			t.Error(d)
		}
	}
}

func TestRuntimeClass(t *testing.T) {
	class := `{apiVersion: node.k8s.io/v1, kind: RuntimeClass, metadata: {name: vm}, handler: kata, overhead: {podFixed: {cpu: 250m}},
	  scheduling: {nodeSelector: {vm: "true"}, tolerations: [{key: vm, operator: Exists}]}}`
	class = strings.ReplaceAll(class, "\t", " ")
	for _, tc := range []struct{ name, spec, err string }{
		{"class", `{runtimeClassName: vm}`, ""},
		{"unknown", `{runtimeClassName: x}`, `RuntimeClass "x" not found`},
		{"none", `{}`, ""},
		{"overhead without class", `{overhead: {cpu: 1}}`, "Pod Overhead set without corresponding RuntimeClass"},
		{"other overhead", `{runtimeClassName: vm, overhead: {cpu: 1}}`, "doesn't match"},
		{"conflicting selector", `{runtimeClassName: vm, nodeSelector: {vm: "false"}}`, "conflict"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			plugin := newRuntimeClass()
			start(t, plugin, nil, parse[runtime.Object](t, class))
			p := parse[*corev1.Pod](t, `{apiVersion: v1, kind: Pod, metadata: {namespace: a}, spec: `+tc.spec+`}`)
			err := run(t, plugin, request{op: admission.Create, resource: podResource, obj: p})
			wantErr(t, err, tc.err)
			if tc.name == "class" && (p.Spec.Overhead.Cpu().MilliValue() != 250 || p.Spec.NodeSelector["vm"] != "true" || len(p.Spec.Tolerations) != 1) {
				t.Errorf("pod %v", p.Spec)
			}
		})
	}
}

func TestAlwaysPullImages(t *testing.T) {
	p := parse[*corev1.Pod](t, `{apiVersion: v1, kind: Pod, spec: {containers: [{name: a, imagePullPolicy: Never}], initContainers: [{name: b}]}}`)
	wantErr(t, run(t, newAlwaysPullImages(), request{op: admission.Create, resource: podResource, obj: p}), "")
	if p.Spec.Containers[0].ImagePullPolicy != "Always" || p.Spec.InitContainers[0].ImagePullPolicy != "Always" {
		t.Error("a container may use a cached image")
	}
}

func TestPodTopologyLabels(t *testing.T) {
	plugin := newPodTopologyLabels()
	start(t, plugin, nil, parse[runtime.Object](t, `{apiVersion: v1, kind: Node, metadata: {name: n1, labels: {topology.kubernetes.io/zone: z, other: x}}}`))
	b := &corev1.Binding{Target: corev1.ObjectReference{Kind: "Node", Name: "n1"}}
	wantErr(t, run(t, plugin, request{op: admission.Create, resource: podResource, sub: "binding", obj: b}), "")
	if d := cmp.Diff(map[string]string{"topology.kubernetes.io/zone": "z"}, b.Labels); d != "" {
		t.Error(d)
	}
}

func TestPodSecurity(t *testing.T) {
	plugin, err := newPodSecurity(nil)
	if err != nil {
		t.Fatal(err)
	}
	start(t, plugin, nil,
		parse[runtime.Object](t, `{apiVersion: v1, kind: Namespace, metadata: {name: strict, labels: {pod-security.kubernetes.io/enforce: restricted}}}`),
		parse[runtime.Object](t, `{apiVersion: v1, kind: Namespace, metadata: {name: open}}`))
	pod := func(namespace string) *corev1.Pod {
		return parse[*corev1.Pod](t, `{apiVersion: v1, kind: Pod, metadata: {name: p, namespace: `+namespace+`}, spec: {containers: [{name: a, securityContext: {privileged: true}}]}}`)
	}
	wantErr(t, run(t, plugin, request{op: admission.Create, resource: podResource, obj: pod("open")}), "")
	wantErr(t, run(t, plugin, request{op: admission.Create, resource: podResource, obj: pod("strict")}), `violates PodSecurity "restricted:latest"`)
	if err := run(t, plugin, request{op: admission.Create, resource: podResource, obj: pod("strict")}); strings.Count(err.Error(), "is forbidden") != 1 {
		t.Errorf("the message repeats itself: %v", err)
	}
}
