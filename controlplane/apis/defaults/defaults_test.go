package defaults

import (
	"encoding/json"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/serializer"
	"k8s.io/client-go/kubernetes/scheme"
	"sigs.k8s.io/yaml"
)

func newScheme(t testing.TB) *runtime.Scheme {
	t.Helper()
	s := runtime.NewScheme()
	if err := scheme.AddToScheme(s); err != nil {
		t.Fatal(err)
	}
	if err := AddToScheme(s); err != nil {
		t.Fatal(err)
	}
	return s
}

// defaulted decodes a manifest and returns it defaulted, as a generic JSON tree.
func defaulted(t testing.TB, s *runtime.Scheme, manifest string) map[string]any {
	t.Helper()
	raw, err := yaml.YAMLToJSON([]byte(manifest))
	if err != nil {
		t.Fatal(err)
	}
	obj, _, err := serializer.NewCodecFactory(s).UniversalDeserializer().Decode(raw, nil, nil)
	if err != nil {
		t.Fatal(err)
	}
	s.Default(obj)
	once := tree(t, obj)
	s.Default(obj)
	if d := cmp.Diff(once, tree(t, obj)); d != "" {
		t.Errorf("defaulting twice changed the object:\n%s", d)
	}
	return once
}

func tree(t testing.TB, obj any) map[string]any {
	t.Helper()
	raw, err := json.Marshal(obj)
	if err != nil {
		t.Fatal(err)
	}
	out := map[string]any{}
	if err := json.Unmarshal(raw, &out); err != nil {
		t.Fatal(err)
	}
	return out
}

func TestDefaults(t *testing.T) {
	s := newScheme(t)
	for _, tc := range []struct{ name, in, want string }{
		{
			"pod",
			`{apiVersion: v1, kind: Pod, metadata: {name: a}, spec: {hostNetwork: true, containers: [
			  {name: c, image: nginx, ports: [{containerPort: 80}], resources: {limits: {cpu: 1500u, memory: 1Mi}},
			   env: [{name: NAME, valueFrom: {fieldRef: {fieldPath: metadata.name}}}],
			   livenessProbe: {httpGet: {port: 80}}, readinessProbe: {grpc: {port: 1}}}],
			  initContainers: [{name: i, image: "nginx:1", resources: {limits: {cpu: 1}, requests: {cpu: 500m}}}],
			  volumes: [{name: e}, {name: h, hostPath: {path: /}}, {name: p, projected: {sources: [{serviceAccountToken: {path: t}}]}},
			   {name: s, secret: {secretName: s}}, {name: d, downwardAPI: {}}, {name: m, configMap: {name: m, defaultMode: 256}},
			   {name: i, image: {reference: a}}]}}`,
			`{apiVersion: v1, kind: Pod, metadata: {name: a}, status: {}, spec: {hostNetwork: true, dnsPolicy: ClusterFirst,
			  enableServiceLinks: true, restartPolicy: Always, schedulerName: default-scheduler, securityContext: {},
			  terminationGracePeriodSeconds: 30, containers: [
			  {name: c, image: nginx, imagePullPolicy: Always, ports: [{containerPort: 80, hostPort: 80, protocol: TCP}],
			   terminationMessagePath: /dev/termination-log, terminationMessagePolicy: File,
			   resources: {limits: {cpu: 2m, memory: 1Mi}, requests: {cpu: 2m, memory: 1Mi}},
			   env: [{name: NAME, valueFrom: {fieldRef: {apiVersion: v1, fieldPath: metadata.name}}}],
			   livenessProbe: {httpGet: {port: 80, path: /, scheme: HTTP}, timeoutSeconds: 1, periodSeconds: 10, successThreshold: 1, failureThreshold: 3},
			   readinessProbe: {grpc: {port: 1, service: ""}, timeoutSeconds: 1, periodSeconds: 10, successThreshold: 1, failureThreshold: 3}}],
			  initContainers: [{name: i, image: "nginx:1", imagePullPolicy: IfNotPresent, terminationMessagePath: /dev/termination-log,
			   terminationMessagePolicy: File, resources: {limits: {cpu: "1"}, requests: {cpu: 500m}}}],
			  volumes: [{name: e, emptyDir: {}}, {name: h, hostPath: {path: /, type: ""}},
			   {name: p, projected: {defaultMode: 420, sources: [{serviceAccountToken: {path: t, expirationSeconds: 3600}}]}},
			   {name: s, secret: {secretName: s, defaultMode: 420}}, {name: d, downwardAPI: {defaultMode: 420}},
			   {name: m, configMap: {name: m, defaultMode: 256}}, {name: i, image: {reference: a, pullPolicy: Always}}]}}`,
		},
		{
			"pod-level requests follow containers, then limits",
			`{apiVersion: v1, kind: Pod, metadata: {name: a}, spec: {resources: {limits: {cpu: 2, memory: 1Gi}}, containers: [
			  {name: c, image: "a:1", resources: {requests: {cpu: 250m}}}, {name: d, image: "a:1", resources: {requests: {cpu: 250m}}}]}}`,
			`{spec: {resources: {limits: {cpu: "2", memory: 1Gi}, requests: {cpu: 500m, memory: 1Gi}}}}`,
		},
		{
			"cluster IP service",
			`{apiVersion: v1, kind: Service, metadata: {name: a}, spec: {ports: [{port: 80}, {name: b, port: 81, targetPort: web}]}}`,
			`{spec: {type: ClusterIP, sessionAffinity: None, internalTrafficPolicy: Cluster, ports: [
			  {port: 80, protocol: TCP, targetPort: 80}, {name: b, port: 81, protocol: TCP, targetPort: web}]}}`,
		},
		{
			"load balancer with affinity",
			`{apiVersion: v1, kind: Service, metadata: {name: a}, spec: {type: LoadBalancer, sessionAffinity: ClientIP},
			  status: {loadBalancer: {ingress: [{ip: 1.2.3.4}, {hostname: h}]}}}`,
			`{spec: {allocateLoadBalancerNodePorts: true, externalTrafficPolicy: Cluster,
			  sessionAffinityConfig: {clientIP: {timeoutSeconds: 10800}}}, status: {loadBalancer: {ingress: [{ip: 1.2.3.4, ipMode: VIP}, {hostname: h}]}}}`,
		},
		{
			"external name",
			`{apiVersion: v1, kind: Service, metadata: {name: a}, spec: {type: ExternalName, externalName: x.y}}`,
			`{spec: {type: ExternalName, externalName: x.y, sessionAffinity: None}}`,
		},
		{
			"namespace",
			`{apiVersion: v1, kind: Namespace, metadata: {name: a}}`,
			`{metadata: {name: a, labels: {kubernetes.io/metadata.name: a}}, status: {phase: Active}}`,
		},
		{
			"node",
			`{apiVersion: v1, kind: Node, metadata: {name: a}, status: {capacity: {cpu: 2}}}`,
			`{status: {capacity: {cpu: "2"}, allocatable: {cpu: "2"}}}`,
		},
		{
			"secret from text",
			`{apiVersion: v1, kind: Secret, metadata: {name: a}, data: {a: YQ==, b: YQ==}, stringData: {b: b}}`,
			`{type: Opaque, data: {a: YQ==, b: Yg==}}`,
		},
		{
			"old name of the service account",
			`{apiVersion: v1, kind: Pod, metadata: {name: a}, spec: {serviceAccount: a, containers: []}, status: {podIP: 10.0.0.1}}`,
			`{spec: {serviceAccount: a, serviceAccountName: a}, status: {podIP: 10.0.0.1, podIPs: [{ip: 10.0.0.1}]}}`,
		},
		{
			"new name of the service account",
			`{apiVersion: v1, kind: Pod, metadata: {name: a}, spec: {serviceAccountName: b, serviceAccount: a, containers: []}, status: {podIPs: [{ip: "fd00::1"}]}}`,
			`{spec: {serviceAccount: b, serviceAccountName: b}, status: {podIP: "fd00::1", podIPs: [{ip: "fd00::1"}]}}`,
		},
		{
			"node range",
			`{apiVersion: v1, kind: Node, metadata: {name: a}, spec: {podCIDR: 10.244.0.0/24}}`,
			`{spec: {podCIDR: 10.244.0.0/24, podCIDRs: [10.244.0.0/24]}}`,
		},
		{"secret", `{apiVersion: v1, kind: Secret, metadata: {name: a}}`, `{type: Opaque}`},
		{
			"endpoints",
			`{apiVersion: v1, kind: Endpoints, metadata: {name: a}, subsets: [{ports: [{port: 1}]}]}`,
			`{subsets: [{ports: [{port: 1, protocol: TCP}]}]}`,
		},
		{
			"replication controller",
			`{apiVersion: v1, kind: ReplicationController, metadata: {name: a}, spec: {template: {metadata: {labels: {a: b}}, spec: {containers: []}}}}`,
			`{metadata: {labels: {a: b}}, spec: {replicas: 1, selector: {a: b}}}`,
		},
		{
			"limit range",
			`{apiVersion: v1, kind: LimitRange, metadata: {name: a}, spec: {limits: [{type: Container, max: {cpu: 2}, min: {memory: 1}}]}}`,
			`{spec: {limits: [{type: Container, max: {cpu: "2"}, min: {memory: "1"}, default: {cpu: "2"}, defaultRequest: {cpu: "2", memory: "1"}}]}}`,
		},
		{
			"volume and claim",
			`{apiVersion: v1, kind: PersistentVolumeClaim, metadata: {name: a}}`,
			`{spec: {volumeMode: Filesystem}, status: {phase: Pending}}`,
		},
		{
			"volume",
			`{apiVersion: v1, kind: PersistentVolume, metadata: {name: a}, spec: {iscsi: {targetPortal: a, iqn: b, lun: 0}}}`,
			`{spec: {persistentVolumeReclaimPolicy: Retain, volumeMode: Filesystem, iscsi: {iscsiInterface: default}}, status: {phase: Pending}}`,
		},
		{
			"deployment",
			`{apiVersion: apps/v1, kind: Deployment, metadata: {name: a}, spec: {template: {spec: {containers: [{name: a, image: b, resources: {limits: {cpu: 1}}}]}}}}`,
			`{spec: {replicas: 1, revisionHistoryLimit: 10, progressDeadlineSeconds: 600,
			  strategy: {type: RollingUpdate, rollingUpdate: {maxSurge: 25%, maxUnavailable: 25%}},
			  template: {spec: {dnsPolicy: ClusterFirst, containers: [{name: a, image: b, imagePullPolicy: Always, resources: {limits: {cpu: "1"}}}]}}}}`,
		},
		{
			"recreate",
			`{apiVersion: apps/v1, kind: Deployment, metadata: {name: a}, spec: {strategy: {type: Recreate}}}`,
			`{spec: {strategy: {type: Recreate}}}`,
		},
		{
			"daemon set",
			`{apiVersion: apps/v1, kind: DaemonSet, metadata: {name: a}}`,
			`{spec: {revisionHistoryLimit: 10, updateStrategy: {type: RollingUpdate, rollingUpdate: {maxUnavailable: 1, maxSurge: 0}}}}`,
		},
		{
			"stateful set",
			`{apiVersion: apps/v1, kind: StatefulSet, metadata: {name: a}, spec: {volumeClaimTemplates: [{metadata: {name: v}}]}}`,
			`{spec: {replicas: 1, revisionHistoryLimit: 10, podManagementPolicy: OrderedReady,
			  persistentVolumeClaimRetentionPolicy: {whenDeleted: Retain, whenScaled: Retain},
			  updateStrategy: {type: RollingUpdate, rollingUpdate: {partition: 0, maxUnavailable: 1}},
			  volumeClaimTemplates: [{metadata: {name: v}, spec: {volumeMode: Filesystem}, status: {phase: Pending}}]}}`,
		},
		{
			"job",
			`{apiVersion: batch/v1, kind: Job, metadata: {name: a}, spec: {template: {metadata: {labels: {a: b}}}}}`,
			`{metadata: {labels: {a: b}}, spec: {completions: 1, parallelism: 1, backoffLimit: 6, completionMode: NonIndexed,
			  suspend: false, podReplacementPolicy: TerminatingOrFailed}}`,
		},
		{
			"job by index",
			`{apiVersion: batch/v1, kind: Job, metadata: {name: a}, spec: {parallelism: 3, backoffLimitPerIndex: 1,
			  podFailurePolicy: {rules: [{action: Ignore, onPodConditions: [{type: DisruptionTarget}]}]}}}`,
			`{spec: {parallelism: 3, backoffLimit: 2147483647, podReplacementPolicy: Failed,
			  podFailurePolicy: {rules: [{action: Ignore, onPodConditions: [{type: DisruptionTarget, status: "True"}]}]}}}`,
		},
		{
			"cron job",
			`{apiVersion: batch/v1, kind: CronJob, metadata: {name: a}}`,
			`{spec: {concurrencyPolicy: Allow, suspend: false, successfulJobsHistoryLimit: 3, failedJobsHistoryLimit: 1}}`,
		},
		{
			"autoscaler",
			`{apiVersion: autoscaling/v2, kind: HorizontalPodAutoscaler, metadata: {name: a}, spec: {behavior: {scaleDown: {policies: [{type: Pods, value: 1, periodSeconds: 5}]}}}}`,
			`{spec: {minReplicas: 1, metrics: [{type: Resource, resource: {name: cpu, target: {type: Utilization, averageUtilization: 80}}}],
			  behavior: {scaleUp: {stabilizationWindowSeconds: 0, selectPolicy: Max, policies: [{type: Pods, value: 4, periodSeconds: 15}, {type: Percent, value: 100, periodSeconds: 15}]},
			   scaleDown: {selectPolicy: Max, policies: [{type: Pods, value: 1, periodSeconds: 5}]}}}}`,
		},
		{
			"autoscaler v1",
			`{apiVersion: autoscaling/v1, kind: HorizontalPodAutoscaler, metadata: {name: a}}`,
			`{spec: {minReplicas: 1}}`,
		},
		{
			"network policy",
			`{apiVersion: networking.k8s.io/v1, kind: NetworkPolicy, metadata: {name: a}, spec: {egress: [{ports: [{port: 1}]}]}}`,
			`{spec: {policyTypes: [Ingress, Egress], egress: [{ports: [{port: 1, protocol: TCP}]}]}}`,
		},
		{
			"ingress class",
			`{apiVersion: networking.k8s.io/v1, kind: IngressClass, metadata: {name: a}, spec: {parameters: {kind: a, name: b}}}`,
			`{spec: {parameters: {scope: Cluster}}}`,
		},
		{
			"role binding",
			`{apiVersion: rbac.authorization.k8s.io/v1, kind: RoleBinding, metadata: {name: a}, roleRef: {kind: Role, name: a}, subjects: [{kind: User, name: a}, {kind: ServiceAccount, name: b, namespace: c}]}`,
			`{roleRef: {apiGroup: rbac.authorization.k8s.io, kind: Role, name: a}, subjects: [
			  {kind: User, name: a, apiGroup: rbac.authorization.k8s.io}, {kind: ServiceAccount, name: b, namespace: c}]}`,
		},
		{
			"storage class",
			`{apiVersion: storage.k8s.io/v1, kind: StorageClass, metadata: {name: a}, provisioner: a}`,
			`{reclaimPolicy: Delete, volumeBindingMode: Immediate}`,
		},
		{
			"csi driver",
			`{apiVersion: storage.k8s.io/v1, kind: CSIDriver, metadata: {name: a}}`,
			`{spec: {attachRequired: true, podInfoOnMount: false, storageCapacity: false, fsGroupPolicy: ReadWriteOnceWithFSType,
			  requiresRepublish: false, seLinuxMount: false, volumeLifecycleModes: [Persistent]}}`,
		},
		{
			"webhooks",
			`{apiVersion: admissionregistration.k8s.io/v1, kind: MutatingWebhookConfiguration, metadata: {name: a}, webhooks: [
			  {name: a, clientConfig: {service: {name: a, namespace: b}}, rules: [{operations: ["*"], apiGroups: [""]}]}]}`,
			`{webhooks: [{name: a, failurePolicy: Fail, matchPolicy: Equivalent, namespaceSelector: {}, objectSelector: {},
			  timeoutSeconds: 10, reinvocationPolicy: Never, clientConfig: {service: {name: a, namespace: b, port: 443}},
			  rules: [{operations: ["*"], apiGroups: [""], scope: "*"}]}]}`,
		},
		{
			"validating policy",
			`{apiVersion: admissionregistration.k8s.io/v1, kind: ValidatingAdmissionPolicy, metadata: {name: a}, spec: {
			  matchConstraints: {resourceRules: [{operations: ["*"], apiGroups: [""]}]}}}`,
			`{spec: {failurePolicy: Fail, matchConstraints: {matchPolicy: Equivalent, namespaceSelector: {}, objectSelector: {},
			  resourceRules: [{operations: ["*"], apiGroups: [""], scope: "*"}]}}}`,
		},
		{
			"priority class",
			`{apiVersion: scheduling.k8s.io/v1, kind: PriorityClass, metadata: {name: a}, value: 1}`,
			`{preemptionPolicy: PreemptLowerPriority}`,
		},
		{
			"endpoint slice",
			`{apiVersion: discovery.k8s.io/v1, kind: EndpointSlice, metadata: {name: a}, ports: [{port: 1}]}`,
			`{ports: [{name: "", port: 1, protocol: TCP}]}`,
		},
		{
			"priority level",
			`{apiVersion: flowcontrol.apiserver.k8s.io/v1, kind: PriorityLevelConfiguration, metadata: {name: a}, spec: {type: Limited, limited: {limitResponse: {type: Queue, queuing: {}}}}}`,
			`{spec: {limited: {nominalConcurrencyShares: 30, lendablePercent: 0, limitResponse: {type: Queue, queuing: {handSize: 8, queues: 64, queueLengthLimit: 50}}}}}`,
		},
		{
			"device claim",
			`{apiVersion: resource.k8s.io/v1, kind: ResourceClaim, metadata: {name: a}, spec: {devices: {requests: [
			  {name: a, exactly: {deviceClassName: c, tolerations: [{key: a}]}}, {name: b, firstAvailable: [{name: c, allocationMode: All}]}]}}}`,
			`{spec: {devices: {requests: [{name: a, exactly: {deviceClassName: c, allocationMode: ExactCount, count: 1, tolerations: [{key: a, operator: Equal}]}},
			  {name: b, firstAvailable: [{name: c, allocationMode: All}]}]}}}`,
		},
		{
			"token request",
			`{apiVersion: authentication.k8s.io/v1, kind: TokenRequest, spec: {audiences: [a]}}`,
			`{spec: {expirationSeconds: 3600}}`,
		},
	} {
		t.Run(tc.name, func(t *testing.T) {
			got := defaulted(t, s, strings.ReplaceAll(tc.in, "\t", "  "))
			want := map[string]any{}
			if err := yaml.Unmarshal([]byte(strings.ReplaceAll(tc.want, "\t", "  ")), &want); err != nil {
				t.Fatal(err)
			}
			if d := cmp.Diff(want, project(got, want)); d != "" {
				t.Errorf("defaulted object (-want +got):\n%s", d)
			}
			if tc.name == "pod" || tc.name == "cluster IP service" || tc.name == "external name" {
				if d := cmp.Diff(want["spec"], got["spec"]); d != "" {
					t.Errorf("whole spec (-want +got):\n%s", d)
				}
			}
		})
	}
}

// project keeps of got what want mentions, so that a case names only what it is about.
func project(got, want any) any {
	switch w := want.(type) {
	case map[string]any:
		g, ok := got.(map[string]any)
		if !ok {
			return got
		}
		out := map[string]any{}
		for k, v := range w {
			if gv, ok := g[k]; ok {
				out[k] = project(gv, v)
			}
		}
		return out
	case []any:
		g, ok := got.([]any)
		if !ok || len(g) != len(w) {
			return got
		}
		out := make([]any, len(g))
		for i := range g {
			out[i] = project(g[i], w[i])
		}
		return out
	}
	return got
}

// TestRecreateHasNoRollingUpdate guards against parameters that validation would reject.
func TestRecreateHasNoRollingUpdate(t *testing.T) {
	got := defaulted(t, newScheme(t), `{apiVersion: apps/v1, kind: Deployment, metadata: {name: a}, spec: {strategy: {type: Recreate}}}`)
	if d := cmp.Diff(map[string]any{"type": "Recreate"}, got["spec"].(map[string]any)["strategy"]); d != "" {
		t.Error(d)
	}
}

// TestEveryKindDefaultsTwiceTheSame walks all registered kinds from their zero value.
func TestEveryKindDefaultsTwiceTheSame(t *testing.T) {
	s := newScheme(t)
	for gvk := range s.AllKnownTypes() {
		obj, err := s.New(gvk)
		if err != nil {
			t.Fatal(err)
		}
		s.Default(obj)
		once := obj.DeepCopyObject()
		s.Default(obj)
		if d := cmp.Diff(once, obj); d != "" {
			t.Errorf("%s: %s", gvk, d)
		}
	}
}
