package validation

import (
	"testing"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"sigs.k8s.io/yaml"
)

// TestKinds states, for each kind, one valid object and the ways in which it can be wrong, as JSON merge patches.
func TestKinds(t *testing.T) {
	for _, k := range kindCases {
		t.Run(k.kind, func(t *testing.T) {
			if errs := Create(t.Context(), parse[runtime.Object](t, k.valid)); len(errs) > 0 {
				t.Fatalf("the valid object is refused: %v", errs)
			}
			for _, c := range k.create {
				t.Run(c.patch, func(t *testing.T) {
					compare(t, Create(t.Context(), patched(t, k.valid, c.patch)), c.want)
				})
			}
			for _, c := range k.update {
				t.Run("update "+c.patch, func(t *testing.T) {
					const version = "metadata: {resourceVersion: '1'}"
					old, now := patched(t, k.valid, version), patched(t, k.valid, version, c.patch)
					compare(t, Update(t.Context(), now, old), c.want)
				})
			}
		})
	}
}

// patched applies JSON merge patches, written in YAML, to a manifest. Lists are replaced whole.
func patched(t *testing.T, manifest string, patches ...string) runtime.Object {
	t.Helper()
	var doc any
	if err := yaml.Unmarshal([]byte(manifest), &doc); err != nil {
		t.Fatal(err)
	}
	for _, p := range patches {
		var patch any
		if err := yaml.Unmarshal([]byte(p), &patch); err != nil {
			t.Fatal(err)
		}
		doc = mergePatch(doc, patch)
	}
	raw, err := yaml.Marshal(doc)
	if err != nil {
		t.Fatal(err)
	}
	return parse[runtime.Object](t, string(raw))
}

func mergePatch(doc, patch any) any {
	p, ok := patch.(map[string]any)
	if !ok {
		return patch
	}
	d, ok := doc.(map[string]any)
	if !ok {
		d = map[string]any{}
	}
	for key, value := range p {
		if value == nil {
			delete(d, key)
		} else {
			d[key] = mergePatch(d[key], value)
		}
	}
	return d
}

type patchCase struct {
	patch string
	want  []string
}

var kindCases = []struct {
	kind, valid    string
	create, update []patchCase
}{
	{
		kind: "Service",
		valid: `{apiVersion: v1, kind: Service, metadata: {name: web, namespace: a}, spec: {clusterIP: 10.96.0.5, clusterIPs: [10.96.0.5], ipFamilies: [IPv4], ipFamilyPolicy: SingleStack,
		  selector: {a: b}, ports: [{name: http, port: 80, targetPort: web}, {name: dns, port: 53, protocol: UDP}]}}`,
		create: []patchCase{
			{`metadata: {name: 1web}`, []string{"invalid metadata.name"}},
			{`spec: {ports: null}`, []string{"required spec.ports"}},
			{`spec: {ports: null, clusterIP: None, clusterIPs: [None]}`, nil},
			{`spec: {ports: [{port: 80}, {port: 81}]}`, []string{"required spec.ports[0].name", "required spec.ports[1].name"}},
			{`spec: {ports: [{name: a, port: 80}, {name: a, port: 81}]}`, []string{"duplicate spec.ports[1].name"}},
			{`spec: {ports: [{name: a, port: 80}, {name: b, port: 80}]}`, []string{"duplicate spec.ports[1]"}},
			{`spec: {ports: [{port: 0, targetPort: 1}]}`, []string{"invalid spec.ports[0].port"}},
			{`spec: {ports: [{port: 1, protocol: X}]}`, []string{"unsupported spec.ports[0].protocol"}},
			{`spec: {ports: [{port: 1, targetPort: 70000}]}`, []string{"invalid spec.ports[0].targetPort"}},
			{`spec: {ports: [{port: 1, nodePort: 30000}]}`, []string{"forbidden spec.ports[0].nodePort"}},
			{`spec: {type: NodePort, ports: [{name: a, port: 1, nodePort: 30000}, {name: b, port: 2, nodePort: 30000}]}`, []string{"duplicate spec.ports[1].nodePort"}},
			{`spec: {type: LoadBalancer, ports: [{port: 10250}]}`, []string{"invalid spec.ports[0]"}},
			{`spec: {type: NodePort, clusterIP: None, clusterIPs: [None]}`, []string{"invalid spec.clusterIPs[0]"}},
			{`spec: {type: ExternalName, clusterIP: null, clusterIPs: null, ipFamilies: null, ipFamilyPolicy: null}`, []string{"required spec.externalName"}},
			{`spec: {type: ExternalName, externalName: a.example., clusterIP: null, clusterIPs: null, ipFamilies: null, ipFamilyPolicy: null}`, nil},
			{`spec: {type: ExternalName, externalName: a.example, ipFamilies: null, ipFamilyPolicy: null}`, []string{"forbidden spec.clusterIPs"}},
			{`spec: {type: Other}`, []string{"unsupported spec.type", "required spec.internalTrafficPolicy"}},
			{`spec: {sessionAffinity: Cookie}`, []string{"unsupported spec.sessionAffinity"}},
			{`spec: {sessionAffinity: ClientIP, sessionAffinityConfig: {clientIP: {timeoutSeconds: 86401}}}`, []string{"invalid spec.sessionAffinityConfig.clientIP.timeoutSeconds"}},
			{`spec: {externalIPs: [127.0.0.1]}`, []string{"invalid spec.externalIPs[0]"}},
			{`spec: {clusterIP: x, clusterIPs: [x]}`, []string{"invalid spec.clusterIPs[0]"}},
			{`spec: {clusterIP: 10.96.0.6}`, []string{"invalid spec.clusterIPs"}},
			{`spec: {ipFamilies: [IPv6]}`, []string{"invalid spec.clusterIPs[0]"}},
			{`spec: {ipFamilies: [IPv4, IPv6], clusterIPs: [10.96.0.5, "fd00::1"]}`, []string{"invalid spec.ipFamilyPolicy", "invalid spec.ipFamilyPolicy"}},
			{`spec: {ipFamilyPolicy: PreferDualStack, ipFamilies: [IPv4, IPv6], clusterIPs: [10.96.0.5, "fd00::1"]}`, nil},
			{`spec: {externalTrafficPolicy: Local}`, []string{"invalid spec.externalTrafficPolicy"}},
			{`spec: {type: NodePort, externalTrafficPolicy: Near}`, []string{"unsupported spec.externalTrafficPolicy"}},
			{`spec: {healthCheckNodePort: 30000}`, []string{"invalid spec.healthCheckNodePort"}},
			{`spec: {internalTrafficPolicy: Near}`, []string{"unsupported spec.internalTrafficPolicy"}},
			{`spec: {loadBalancerClass: a/b}`, []string{"forbidden spec.loadBalancerClass"}},
			{`spec: {allocateLoadBalancerNodePorts: true}`, []string{"forbidden spec.allocateLoadBalancerNodePorts"}},
			{`spec: {type: LoadBalancer, loadBalancerSourceRanges: [x]}`, []string{"invalid spec.loadBalancerSourceRanges[0]"}},
			{`spec: {trafficDistribution: Near}`, []string{"unsupported spec.trafficDistribution"}},
		},
		update: []patchCase{
			{`spec: {clusterIP: 10.96.0.6, clusterIPs: [10.96.0.6]}`, []string{"invalid spec.clusterIPs[0]"}},
			{`spec: {clusterIP: null, clusterIPs: null}`, []string{"required spec.clusterIPs[0]"}},
			{`spec: {type: ExternalName, externalName: a.example, clusterIP: null, clusterIPs: null, ipFamilies: null, ipFamilyPolicy: null}`, nil},
			{`spec: {type: NodePort}`, nil},
			{`spec: {selector: {c: d}}`, nil},
		},
	},
	{
		kind:  "Node",
		valid: `{apiVersion: v1, kind: Node, metadata: {name: n1}, spec: {podCIDR: 10.244.0.0/24, taints: [{key: a, effect: NoSchedule}]}, status: {capacity: {cpu: 1}}}`,
		create: []patchCase{
			{`metadata: {name: A}`, []string{"invalid metadata.name"}},
			{`metadata: {namespace: a}`, []string{"forbidden metadata.namespace"}},
			{`spec: {taints: [{effect: NoSchedule}]}`, []string{"invalid spec.taints[0].key", "invalid spec.taints[0].key"}},
			{`spec: {taints: [{key: a}]}`, []string{"required spec.taints[0].effect"}},
			{`spec: {taints: [{key: a, effect: X}]}`, []string{"unsupported spec.taints[0].effect"}},
			{`spec: {taints: [{key: a, effect: NoExecute}, {key: a, effect: NoExecute}]}`, []string{"duplicate spec.taints[1]"}},
			{`spec: {podCIDR: x}`, []string{"invalid spec.podCIDRs[0]"}},
			{`spec: {podCIDR: 10.0.0.0/24, podCIDRs: [10.0.0.0/24, 10.0.1.0/24]}`, []string{"invalid spec.podCIDRs"}},
		},
		update: []patchCase{
			{`spec: {podCIDR: 10.244.1.0/24}`, []string{"forbidden spec.podCIDRs"}},
			{`spec: {unschedulable: true, taints: null}`, nil},
			{`spec: {providerID: a}`, nil},
			{`status: {capacity: {cpu: -1}, allocatable: {cpu: 1}}`, []string{"invalid status.capacity[cpu]"}},
		},
	},
	{
		kind:  "ConfigMap",
		valid: `{apiVersion: v1, kind: ConfigMap, metadata: {name: c, namespace: a}, data: {k: v}, binaryData: {b: YQ==}, immutable: true}`,
		create: []patchCase{
			{`data: {"a b": c}`, []string{"invalid data[a b]"}},
			{`data: {b: c}`, []string{"invalid data[b]"}},
			{`metadata: {namespace: null}`, []string{"required metadata.namespace"}},
		},
		update: []patchCase{
			{`data: {k: w}`, []string{"forbidden data"}},
			{`immutable: false`, []string{"forbidden immutable"}},
			{`binaryData: null`, []string{"forbidden binaryData"}},
			{`metadata: {labels: {a: b}}`, nil},
		},
	},
	{
		kind:  "Secret",
		valid: `{apiVersion: v1, kind: Secret, metadata: {name: c, namespace: a}, data: {k: dg==}}`,
		create: []patchCase{
			{`data: {"a b": YQ==}`, []string{"invalid data[a b]"}},
			{`type: kubernetes.io/tls`, []string{"required data[tls.crt]", "required data[tls.key]"}},
			{`type: kubernetes.io/dockerconfigjson`, []string{"required data[.dockerconfigjson]"}},
			{`{type: kubernetes.io/dockerconfigjson, data: {.dockerconfigjson: YQ==}}`, []string{"invalid data[.dockerconfigjson]"}},
			{`type: kubernetes.io/basic-auth`, []string{"required data[username]", "required data[password]"}},
			{`type: kubernetes.io/ssh-auth`, []string{"required data[ssh-privatekey]"}},
			{`type: kubernetes.io/service-account-token`, []string{"required metadata.annotations[kubernetes.io/service-account.name]"}},
		},
		update: []patchCase{{`type: example.com/x`, []string{"invalid type"}}, {`data: {z: eg==}`, nil}},
	},
	{
		kind: "Deployment",
		valid: `{apiVersion: apps/v1, kind: Deployment, metadata: {name: c, namespace: a}, spec: {selector: {matchLabels: {a: b}},
		  template: {metadata: {labels: {a: b}}, spec: {containers: [{name: a, image: b}]}}}}`,
		create: []patchCase{
			{`spec: {replicas: -1}`, []string{"invalid spec.replicas"}},
			{`spec: {selector: null}`, []string{"required spec.selector"}},
			{`spec: {selector: {matchLabels: null}}`, []string{"invalid spec.selector"}},
			{`spec: {selector: {matchLabels: {a: c}}}`, []string{"invalid spec.template.metadata.labels"}},
			{`spec: {template: {spec: {containers: null}}}`, []string{"required spec.template.spec.containers"}},
			{`spec: {template: {spec: {containers: [{name: a}]}}}`, []string{"required spec.template.spec.containers[0].image"}},
			{`spec: {template: {spec: {restartPolicy: Never}}}`, []string{"unsupported spec.template.spec.restartPolicy"}},
			{`spec: {template: {spec: {activeDeadlineSeconds: 1}}}`, []string{"forbidden spec.template.spec.activeDeadlineSeconds"}},
			{`spec: {strategy: {type: X}}`, []string{"unsupported spec.strategy"}},
			{`spec: {strategy: {type: Recreate, rollingUpdate: {maxSurge: 1}}}`, []string{"forbidden spec.strategy.rollingUpdate"}},
			{`spec: {strategy: {rollingUpdate: {maxSurge: 0, maxUnavailable: 0%}}}`, []string{"invalid spec.strategy.rollingUpdate.maxUnavailable"}},
			{`spec: {strategy: {rollingUpdate: {maxUnavailable: 101%}}}`, []string{"invalid spec.strategy.rollingUpdate.maxUnavailable"}},
			{`spec: {strategy: {rollingUpdate: {maxSurge: many}}}`, []string{"invalid spec.strategy.rollingUpdate.maxSurge"}},
			{`spec: {minReadySeconds: 600}`, []string{"invalid spec.progressDeadlineSeconds"}},
			{`spec: {revisionHistoryLimit: -1}`, []string{"invalid spec.revisionHistoryLimit"}},
		},
		update: []patchCase{
			{`spec: {selector: {matchLabels: {c: d}}, template: {metadata: {labels: {c: d}}}}`, []string{"invalid spec.selector"}},
			{`spec: {replicas: 3, template: {spec: {containers: [{name: a, image: c}]}}}`, nil},
		},
	},
	{
		kind: "ReplicaSet",
		valid: `{apiVersion: apps/v1, kind: ReplicaSet, metadata: {name: c, namespace: a}, spec: {selector: {matchLabels: {a: b}},
		  template: {metadata: {labels: {a: b}}, spec: {containers: [{name: a, image: b}]}}}}`,
		create: []patchCase{
			{`spec: {selector: {matchLabels: {a: c}}}`, []string{"invalid spec.template.metadata.labels"}},
			{`spec: {minReadySeconds: -1}`, []string{"invalid spec.minReadySeconds"}},
		},
		update: []patchCase{{`spec: {selector: {matchExpressions: [{key: a, operator: Exists}]}}`, []string{"invalid spec.selector"}}},
	},
	{
		kind: "DaemonSet",
		valid: `{apiVersion: apps/v1, kind: DaemonSet, metadata: {name: c, namespace: a}, spec: {selector: {matchLabels: {a: b}},
		  template: {metadata: {labels: {a: b}}, spec: {containers: [{name: a, image: b}]}}}}`,
		create: []patchCase{
			{`spec: {updateStrategy: {rollingUpdate: {maxSurge: 1, maxUnavailable: 1}}}`, []string{"invalid spec.updateStrategy.rollingUpdate.maxSurge"}},
			{`spec: {updateStrategy: {rollingUpdate: {maxSurge: 0, maxUnavailable: 0}}}`, []string{"required spec.updateStrategy.rollingUpdate.maxUnavailable"}},
			{`spec: {updateStrategy: {type: X}}`, []string{"unsupported spec.updateStrategy"}},
		},
	},
	{
		kind: "StatefulSet",
		valid: `{apiVersion: apps/v1, kind: StatefulSet, metadata: {name: c, namespace: a}, spec: {serviceName: s, selector: {matchLabels: {a: b}},
		  volumeClaimTemplates: [{metadata: {name: data}, spec: {accessModes: [ReadWriteOnce], resources: {requests: {storage: 1Gi}}}}],
		  template: {metadata: {labels: {a: b}}, spec: {containers: [{name: a, image: b, volumeMounts: [{name: data, mountPath: /data}]}]}}}}`,
		create: []patchCase{
			{`spec: {podManagementPolicy: X}`, []string{"unsupported spec.podManagementPolicy"}},
			{`spec: {updateStrategy: {type: X}}`, []string{"invalid spec.updateStrategy"}},
			{`spec: {updateStrategy: {rollingUpdate: {partition: -1}}}`, []string{"invalid spec.updateStrategy.rollingUpdate.partition"}},
			{`spec: {ordinals: {start: -1}}`, []string{"invalid spec.ordinals.start"}},
			{`spec: {volumeClaimTemplates: null}`, []string{"notfound spec.template.spec.containers[0].volumeMounts[0].name"}},
			{`spec: {persistentVolumeClaimRetentionPolicy: {whenScaled: X}}`, []string{"unsupported spec.persistentVolumeClaimRetentionPolicy.whenScaled"}},
		},
		update: []patchCase{{`spec: {serviceName: t}`, []string{"forbidden spec"}}, {`spec: {replicas: 2, minReadySeconds: 1}`, nil}},
	},
	{
		kind: "Job",
		valid: `{apiVersion: batch/v1, kind: Job, metadata: {name: c, namespace: a}, spec: {selector: {matchLabels: {a: b}}, manualSelector: true,
		  template: {metadata: {labels: {a: b}}, spec: {restartPolicy: Never, containers: [{name: a, image: b}]}}}}`,
		create: []patchCase{
			{`spec: {template: {spec: {restartPolicy: null}}}`, []string{"required spec.template.spec.restartPolicy"}},
			{`spec: {parallelism: -1, completions: -1, backoffLimit: -1}`, []string{"invalid spec.parallelism", "invalid spec.completions", "invalid spec.backoffLimit"}},
			{`spec: {completionMode: Indexed, completions: null, parallelism: 2}`, []string{"required spec.completions"}},
			{`spec: {backoffLimitPerIndex: 1}`, []string{"invalid spec.backoffLimitPerIndex"}},
			{`spec: {podFailurePolicy: {rules: [{action: Ignore, onExitCodes: {operator: In, values: [0]}}]}}`, []string{"invalid spec.podFailurePolicy.rules[0].onExitCodes.values[0]"}},
			{`spec: {podFailurePolicy: {rules: [{action: FailIndex, onPodConditions: [{type: A}]}]}}`, []string{"invalid spec.podFailurePolicy.rules[0].action"}},
			{`spec: {successPolicy: {rules: [{succeededCount: 1}]}}`, []string{"invalid spec.successPolicy"}},
			{`spec: {completionMode: Indexed, completions: 3, successPolicy: {rules: [{succeededIndexes: "0,2-1"}]}}`, []string{"invalid spec.successPolicy.rules[0].succeededIndexes"}},
			{`spec: {completionMode: Indexed, completions: 3, successPolicy: {rules: [{succeededIndexes: "0-2", succeededCount: 2}]}}`, nil},
			{`spec: {podReplacementPolicy: X}`, []string{"unsupported spec.podReplacementPolicy"}},
		},
		update: []patchCase{
			{`spec: {template: {spec: {containers: [{name: a, image: c}]}}}`, []string{"invalid spec.template"}},
			{`spec: {parallelism: 3, completions: 1}`, nil},
			{`spec: {completions: 3}`, []string{"invalid spec.completions"}},
		},
	},
	{
		kind: "CronJob",
		valid: `{apiVersion: batch/v1, kind: CronJob, metadata: {name: c, namespace: a}, spec: {schedule: "*/5 0-3,22 * jan-mar mon", timeZone: Etc/UTC,
		  jobTemplate: {spec: {template: {spec: {restartPolicy: Never, containers: [{name: a, image: b}]}}}}}}`,
		create: []patchCase{
			{`spec: {schedule: null}`, []string{"required spec.schedule"}},
			{`spec: {schedule: "60 * * * *"}`, []string{"invalid spec.schedule"}},
			{`spec: {schedule: "* * * *"}`, []string{"invalid spec.schedule"}},
			{`spec: {schedule: "*/0 * * * *"}`, []string{"invalid spec.schedule"}},
			{`spec: {schedule: "@hourly"}`, nil},
			{`spec: {schedule: "@every 1h"}`, nil},
			{`spec: {schedule: "@never"}`, []string{"invalid spec.schedule"}},
			{`spec: {schedule: "TZ=UTC * * * * *"}`, []string{"invalid spec.schedule"}},
			{`spec: {timeZone: Mars/Base}`, []string{"invalid spec.timeZone"}},
			{`spec: {concurrencyPolicy: X}`, []string{"unsupported spec.concurrencyPolicy"}},
			{`metadata: {name: aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa}`, []string{"invalid metadata.name"}},
		},
	},
	{
		kind: "ReplicationController",
		valid: `{apiVersion: v1, kind: ReplicationController, metadata: {name: c, namespace: a}, spec: {selector: {a: b},
		  template: {metadata: {labels: {a: b}}, spec: {containers: [{name: a, image: b}]}}}}`,
		create: []patchCase{
			{`spec: {template: null}`, []string{"required spec.template"}},
			{`spec: {selector: {a: c}}`, []string{"invalid spec.template.metadata.labels"}},
			{`spec: {replicas: -1}`, []string{"invalid spec.replicas"}},
		},
	},
	{
		kind:  "Namespace",
		valid: `{apiVersion: v1, kind: Namespace, metadata: {name: a}, spec: {finalizers: [kubernetes]}}`,
		create: []patchCase{
			{`metadata: {name: a.b}`, []string{"invalid metadata.name"}},
			{`spec: {finalizers: ["a b"]}`, []string{"invalid spec.finalizers[0]"}},
		},
	},
	{
		kind:  "Endpoints",
		valid: `{apiVersion: v1, kind: Endpoints, metadata: {name: a, namespace: b}, subsets: [{addresses: [{ip: 10.0.0.1}], ports: [{port: 1}]}]}`,
		create: []patchCase{
			{`subsets: [{ports: [{port: 1}]}]`, []string{"required subsets[0]"}},
			{`subsets: [{addresses: [{ip: 127.0.0.1}], ports: [{port: 0}]}]`, []string{"invalid subsets[0].addresses[0].ip", "invalid subsets[0].ports[0].port"}},
		},
	},
	{
		kind: "EndpointSlice",
		valid: `{apiVersion: discovery.k8s.io/v1, kind: EndpointSlice, metadata: {name: a, namespace: b}, addressType: IPv4, ports: [{port: 1}],
		  endpoints: [{addresses: [10.0.0.1], nodeName: n1, hints: {forZones: [{name: z}]}}]}`,
		create: []patchCase{
			{`addressType: IPv5`, []string{"unsupported addressType"}},
			{`addressType: IPv6`, []string{"invalid endpoints[0].addresses[0]"}},
			{`endpoints: [{addresses: []}]`, []string{"required endpoints[0].addresses"}},
			{`ports: [{port: 1}, {port: 2}]`, []string{"duplicate ports[1].name"}},
			{`ports: [{port: 1, protocol: X}]`, []string{"unsupported ports[0].protocol"}},
		},
		update: []patchCase{{`{addressType: FQDN, endpoints: []}`, []string{"invalid addressType"}}},
	},
	{
		kind:  "Event",
		valid: `{apiVersion: v1, kind: Event, metadata: {name: "system:x.1", namespace: a}, involvedObject: {kind: Pod, name: b, namespace: a}}`,
		create: []patchCase{
			{`involvedObject: {namespace: c}`, []string{"invalid involvedObject.namespace"}},
			{`{eventTime: "2026-01-01T00:00:00.000000Z", metadata: {name: a}}`, []string{"required reportingController", "required reportingInstance", "required action", "required reason", "invalid type"}},
		},
	},
	{
		kind:  "LimitRange",
		valid: `{apiVersion: v1, kind: LimitRange, metadata: {name: a, namespace: b}, spec: {limits: [{type: Container, min: {cpu: 1}, max: {cpu: 4}, default: {cpu: 2}, defaultRequest: {cpu: 1}}]}}`,
		create: []patchCase{
			{`spec: {limits: [{type: Container, min: {cpu: 5}, max: {cpu: 4}, default: {cpu: 4}, defaultRequest: {cpu: 4}}]}`,
				[]string{"invalid spec.limits[0].min[cpu]", "invalid spec.limits[0].default[cpu]", "invalid spec.limits[0].defaultRequest[cpu]"}},
			{`spec: {limits: [{type: Pod, default: {cpu: 1}}]}`, []string{"forbidden spec.limits[0].default"}},
			{`spec: {limits: [{type: Pod}, {type: Pod}]}`, []string{"duplicate spec.limits[1].type"}},
			{`spec: {limits: [{type: PersistentVolumeClaim}]}`, []string{"required spec.limits[0].limits"}},
		},
	},
	{
		kind:  "ResourceQuota",
		valid: `{apiVersion: v1, kind: ResourceQuota, metadata: {name: a, namespace: b}, spec: {hard: {pods: 3, requests.cpu: 1500m, count/deployments.apps: 2}}}`,
		create: []patchCase{
			{`spec: {hard: {pods: 1500m}}`, []string{"invalid spec.hard[pods]"}},
			{`spec: {hard: {nonsense: 1}}`, []string{"invalid spec.hard[nonsense]"}},
			{`spec: {hard: {pods: -1}}`, []string{"invalid spec.hard[pods]"}},
			{`spec: {scopes: [BestEffort]}`, []string{"invalid spec.scopes"}},
			{`spec: {hard: {count/deployments.apps: null, requests.cpu: null}, scopes: [BestEffort, NotBestEffort]}`, []string{"invalid spec.scopes"}},
		},
		update: []patchCase{{`spec: {hard: {count/deployments.apps: null}, scopes: [Terminating]}`, []string{"invalid spec.scopes"}}},
	},
	{
		kind: "PersistentVolumeClaim",
		valid: `{apiVersion: v1, kind: PersistentVolumeClaim, metadata: {name: a, namespace: b}, spec: {accessModes: [ReadWriteOnce], resources: {requests: {storage: 1Gi}}, storageClassName: fast},
		  status: {phase: Bound, capacity: {storage: 1Gi}}}`,
		create: []patchCase{
			{`spec: {accessModes: null}`, []string{"required spec.accessModes"}},
			{`spec: {accessModes: [X]}`, []string{"unsupported spec.accessModes"}},
			{`spec: {accessModes: [ReadWriteOncePod, ReadWriteOnce]}`, []string{"forbidden spec.accessModes"}},
			{`spec: {resources: null}`, []string{"required spec.resources[storage]"}},
			{`spec: {resources: {requests: {storage: 0}}}`, []string{"invalid spec.resources[storage]"}},
			{`spec: {volumeMode: X}`, []string{"unsupported spec.volumeMode"}},
			{`spec: {dataSource: {kind: X, name: a}}`, []string{"invalid spec.dataSource"}},
		},
		update: []patchCase{
			{`spec: {resources: {requests: {storage: 2Gi}}}`, nil},
			{`spec: {resources: {requests: {storage: 1Mi}}}`, []string{"forbidden spec.resources.requests.storage"}},
			{`spec: {storageClassName: slow}`, []string{"forbidden spec"}},
			{`spec: {volumeName: v}`, nil},
		},
	},
	{
		kind:  "PersistentVolume",
		valid: `{apiVersion: v1, kind: PersistentVolume, metadata: {name: a}, spec: {accessModes: [ReadWriteOnce], capacity: {storage: 1Gi}, hostPath: {path: /a}}}`,
		create: []patchCase{
			{`spec: {capacity: null}`, []string{"required spec.capacity"}},
			{`spec: {hostPath: null}`, []string{"required spec"}},
			{`spec: {nfs: {server: a, path: /}}`, []string{"forbidden spec.nfs"}},
			{`spec: {hostPath: null, local: {path: /a}}`, []string{"required spec.nodeAffinity"}},
			{`spec: {persistentVolumeReclaimPolicy: X}`, []string{"unsupported spec.persistentVolumeReclaimPolicy"}},
		},
		update: []patchCase{{`spec: {hostPath: {path: /b}}`, []string{"forbidden spec.persistentvolumesource"}}},
	},
	{
		kind:  "PodDisruptionBudget",
		valid: `{apiVersion: policy/v1, kind: PodDisruptionBudget, metadata: {name: a, namespace: b}, spec: {minAvailable: 50%, selector: {matchLabels: {a: b}}}}`,
		create: []patchCase{
			{`spec: {maxUnavailable: 1}`, []string{"invalid spec"}},
			{`spec: {minAvailable: 101%}`, []string{"invalid spec.minAvailable"}},
			{`spec: {minAvailable: -1}`, []string{"invalid spec.minAvailable"}},
			{`spec: {unhealthyPodEvictionPolicy: X}`, []string{"unsupported spec.unhealthyPodEvictionPolicy"}},
		},
	},
	{
		kind:  "HorizontalPodAutoscaler",
		valid: `{apiVersion: autoscaling/v2, kind: HorizontalPodAutoscaler, metadata: {name: a, namespace: b}, spec: {maxReplicas: 3, scaleTargetRef: {kind: Deployment, name: a, apiVersion: apps/v1}, behavior: {}}}`,
		create: []patchCase{
			{`spec: {maxReplicas: 0}`, []string{"required spec.maxReplicas", "invalid spec.maxReplicas"}},
			{`spec: {scaleTargetRef: {name: null}}`, []string{"required spec.scaleTargetRef.name"}},
			{`spec: {metrics: [{type: Resource}]}`, []string{"required spec.metrics[0].resource"}},
			{`spec: {metrics: [{type: Resource, resource: {name: cpu, target: {type: Utilization}}}]}`, []string{"required spec.metrics[0].resource.target.averageUtilization"}},
			{`spec: {behavior: {scaleDown: {stabilizationWindowSeconds: 3601}}}`, []string{"invalid spec.behavior.scaleDown.stabilizationWindowSeconds"}},
		},
	},
	{
		kind: "Ingress",
		valid: `{apiVersion: networking.k8s.io/v1, kind: Ingress, metadata: {name: a, namespace: b}, spec: {ingressClassName: x, tls: [{hosts: ["*.a.example"], secretName: s}],
		  rules: [{host: a.example, http: {paths: [{path: /, pathType: Prefix, backend: {service: {name: s, port: {number: 80}}}}]}}]}}`,
		create: []patchCase{
			{`spec: {rules: null}`, []string{"invalid spec"}},
			{`spec: {rules: [{host: 1.2.3.4}]}`, []string{"invalid spec.rules[0].host"}},
			{`spec: {rules: [{http: {paths: []}}]}`, []string{"required spec.rules[0].http.paths"}},
			{`spec: {rules: [{http: {paths: [{path: a, pathType: Exact, backend: {}}]}}]}`, []string{"invalid spec.rules[0].http.paths[0].path", "required spec.rules[0].http.paths[0].backend"}},
			{`spec: {rules: [{http: {paths: [{path: /a/../b, pathType: Exact, backend: {service: {name: s, port: {}}}}]}}]}`,
				[]string{"invalid spec.rules[0].http.paths[0].path", "required spec.rules[0].http.paths[0].backend"}},
		},
	},
	{
		kind: "NetworkPolicy",
		valid: `{apiVersion: networking.k8s.io/v1, kind: NetworkPolicy, metadata: {name: a, namespace: b}, spec: {podSelector: {},
		  ingress: [{from: [{podSelector: {}}, {ipBlock: {cidr: 10.0.0.0/8, except: [10.1.0.0/16]}}], ports: [{port: 80, endPort: 90}]}]}}`,
		create: []patchCase{
			{`spec: {ingress: [{from: [{}]}]}`, []string{"required spec.ingress[0].from[0]"}},
			{`spec: {ingress: [{from: [{podSelector: {}, ipBlock: {cidr: 10.0.0.0/8}}]}]}`, []string{"forbidden spec.ingress[0].from[0]"}},
			{`spec: {ingress: [{from: [{ipBlock: {cidr: 10.0.0.0/8, except: [11.0.0.0/16]}}]}]}`, []string{"invalid spec.ingress[0].from[0].ipBlock.except[0]"}},
			{`spec: {ingress: [{ports: [{port: 80, endPort: 70}]}]}`, []string{"invalid spec.ingress[0].ports[0].endPort"}},
			{`spec: {policyTypes: [X]}`, []string{"unsupported spec.policyTypes[0]"}},
		},
	},
	{
		kind:  "IPAddress",
		valid: `{apiVersion: networking.k8s.io/v1, kind: IPAddress, metadata: {name: 10.96.0.1}, spec: {parentRef: {resource: services, name: a, namespace: b}}}`,
		create: []patchCase{
			{`metadata: {name: x}`, []string{"invalid metadata.name"}},
			{`spec: {parentRef: null}`, []string{"required spec.parentRef"}},
			{`spec: {parentRef: {resource: null}}`, []string{"required spec.parentRef.resource"}},
		},
		update: []patchCase{{`spec: {parentRef: {name: z}}`, []string{"invalid spec.parentRef"}}},
	},
	{
		kind:   "ServiceCIDR",
		valid:  `{apiVersion: networking.k8s.io/v1, kind: ServiceCIDR, metadata: {name: a}, spec: {cidrs: [10.96.0.0/16]}}`,
		create: []patchCase{{`spec: {cidrs: null}`, []string{"required spec.cidrs"}}, {`spec: {cidrs: [10.96.0.1/16]}`, []string{"invalid spec.cidrs[0]"}}},
		update: []patchCase{{`spec: {cidrs: [10.97.0.0/16]}`, []string{"invalid spec.cidrs"}}, {`spec: {cidrs: [10.96.0.0/16, "fd00::/112"]}`, nil}},
	},
	{
		kind:  "ClusterRole",
		valid: `{apiVersion: rbac.authorization.k8s.io/v1, kind: ClusterRole, metadata: {name: "system:x"}, rules: [{verbs: [get], apiGroups: [""], resources: [pods]}, {verbs: ["*"], nonResourceURLs: [/x]}]}`,
		create: []patchCase{
			{`rules: [{apiGroups: [""], resources: [pods]}]`, []string{"required rules[0].verbs"}},
			{`rules: [{verbs: [get]}]`, []string{"required rules[0].apiGroups", "required rules[0].resources"}},
			{`rules: [{verbs: [get], nonResourceURLs: [/x], resources: [pods]}]`, []string{"invalid rules[0].nonResourceURLs"}},
		},
	},
	{
		kind: "RoleBinding",
		valid: `{apiVersion: rbac.authorization.k8s.io/v1, kind: RoleBinding, metadata: {name: "a:b", namespace: a}, roleRef: {kind: Role, name: a},
		  subjects: [{kind: User, name: a}, {kind: ServiceAccount, name: b}]}`,
		create: []patchCase{
			{`roleRef: {kind: X}`, []string{"unsupported roleRef.kind"}},
			{`roleRef: {name: null}`, []string{"required roleRef.name"}},
			{`subjects: [{kind: X, name: a}]`, []string{"unsupported subjects[0].kind"}},
			{`subjects: [{kind: User}]`, []string{"required subjects[0].name"}},
		},
		update: []patchCase{{`roleRef: {name: b}`, []string{"invalid roleRef"}}},
	},
	{
		kind:  "PriorityClass",
		valid: `{apiVersion: scheduling.k8s.io/v1, kind: PriorityClass, metadata: {name: a}, value: 5}`,
		create: []patchCase{
			{`value: 1000000001`, []string{"forbidden value"}},
			{`metadata: {name: system-x}`, []string{"forbidden metadata.name"}},
			{`{metadata: {name: system-node-critical}, value: 2000001000}`, nil},
			{`preemptionPolicy: X`, []string{"unsupported preemptionPolicy"}},
		},
		update: []patchCase{{`value: 6`, []string{"forbidden value"}}},
	},
	{
		kind:   "Lease",
		valid:  `{apiVersion: coordination.k8s.io/v1, kind: Lease, metadata: {name: a, namespace: b}, spec: {leaseDurationSeconds: 40}}`,
		create: []patchCase{{`spec: {leaseDurationSeconds: 0}`, []string{"invalid spec.leaseDurationSeconds"}}},
	},
	{
		kind:   "RuntimeClass",
		valid:  `{apiVersion: node.k8s.io/v1, kind: RuntimeClass, metadata: {name: a}, handler: runc}`,
		create: []patchCase{{`handler: A`, []string{"invalid handler"}}, {`overhead: {podFixed: {cpu: -1}}`, []string{"invalid overhead.podFixed[cpu]"}}},
		update: []patchCase{{`handler: crun`, []string{"invalid handler"}}},
	},
	{
		kind:   "StorageClass",
		valid:  `{apiVersion: storage.k8s.io/v1, kind: StorageClass, metadata: {name: a}, provisioner: example.com/x}`,
		create: []patchCase{{`provisioner: ""`, []string{"required provisioner"}}, {`reclaimPolicy: X`, []string{"unsupported reclaimPolicy"}}, {`volumeBindingMode: X`, []string{"unsupported volumeBindingMode"}}},
		update: []patchCase{{`{parameters: {a: b}, provisioner: z}`, []string{"invalid parameters", "invalid provisioner"}}},
	},
	{
		kind:   "CSIDriver",
		valid:  `{apiVersion: storage.k8s.io/v1, kind: CSIDriver, metadata: {name: a.example}}`,
		create: []patchCase{{`spec: {fsGroupPolicy: X}`, []string{"unsupported spec.fsGroupPolicy"}}},
		update: []patchCase{{`spec: {attachRequired: false}`, []string{"invalid spec.attachRequired"}}},
	},
	{
		kind:   "CSINode",
		valid:  `{apiVersion: storage.k8s.io/v1, kind: CSINode, metadata: {name: n1}, spec: {drivers: [{name: a.example, nodeID: x, topologyKeys: [a]}]}}`,
		create: []patchCase{{`spec: {drivers: [{name: a.example, nodeID: ""}]}`, []string{"required spec.drivers[0].nodeID"}}},
		update: []patchCase{{`spec: {drivers: [{name: a.example, nodeID: z, topologyKeys: [a]}]}`, []string{"invalid CSINodeDriver[0]"}}},
	},
	{
		kind: "ValidatingWebhookConfiguration",
		valid: `{apiVersion: admissionregistration.k8s.io/v1, kind: ValidatingWebhookConfiguration, metadata: {name: a}, webhooks: [{name: a.b.example, sideEffects: None, admissionReviewVersions: [v1],
		  clientConfig: {service: {name: a, namespace: b}}, rules: [{operations: ["*"], apiGroups: [""], apiVersions: ["*"], resources: [pods]}], matchConditions: [{name: x, expression: "object != null"}]}]}`,
		create: []patchCase{
			{`webhooks: [{name: a, sideEffects: None, admissionReviewVersions: [v1], clientConfig: {url: "https://a.example/"}}]`, []string{"invalid webhooks[0].name"}},
			{`webhooks: [{name: a.b.c, admissionReviewVersions: [v1], clientConfig: {url: "https://a.example/"}}]`, []string{"required webhooks[0].sideEffects"}},
			{`webhooks: [{name: a.b.c, sideEffects: Some, admissionReviewVersions: [], clientConfig: {}}]`, []string{"unsupported webhooks[0].sideEffects", "required webhooks[0].admissionReviewVersions", "required webhooks[0].clientConfig"}},
			{`webhooks: [{name: a.b.c, sideEffects: None, timeoutSeconds: 31, admissionReviewVersions: [v1], clientConfig: {url: "http://a.example/"}}]`, []string{"invalid webhooks[0].timeoutSeconds", "invalid webhooks[0].clientConfig.url"}},
			{`webhooks: [{name: a.b.c, sideEffects: None, admissionReviewVersions: [v1], clientConfig: {url: "https://a.example/"}, matchConditions: [{name: x, expression: "1 +"}]}]`, []string{"invalid webhooks[0].matchConditions[0].expression"}},
		},
	},
	{
		kind: "ValidatingAdmissionPolicy",
		valid: `{apiVersion: admissionregistration.k8s.io/v1, kind: ValidatingAdmissionPolicy, metadata: {name: a}, spec: {
		  matchConstraints: {resourceRules: [{operations: [CREATE], apiGroups: [apps], apiVersions: [v1], resources: [deployments]}]},
		  variables: [{name: num, expression: "object.spec.replicas"}], validations: [{expression: "variables.num < 5", messageExpression: "'too many: ' + string(variables.num)"}]}}`,
		create: []patchCase{
			{`spec: {validations: null}`, []string{"required spec.validations", "required spec.auditAnnotations"}},
			{`spec: {validations: [{expression: "1"}]}`, []string{"invalid spec.validations[0].expression"}},
			{`spec: {validations: [{expression: "object.x =="}]}`, []string{"invalid spec.validations[0].expression"}},
			{`spec: {variables: [{name: "1", expression: "1"}], validations: [{expression: "true"}]}`, []string{"invalid spec.variables[0].name"}},
			{`spec: {matchConstraints: null}`, []string{"required spec.matchConstraints"}},
		},
	},
	{
		kind:  "ValidatingAdmissionPolicyBinding",
		valid: `{apiVersion: admissionregistration.k8s.io/v1, kind: ValidatingAdmissionPolicyBinding, metadata: {name: a}, spec: {policyName: a, validationActions: [Deny]}}`,
		create: []patchCase{
			{`spec: {policyName: ""}`, []string{"required spec.policyName"}},
			{`spec: {validationActions: [Deny, Warn]}`, []string{"invalid spec.validationActions"}},
			{`spec: {paramRef: {}}`, []string{"required spec.paramRef", "required spec.paramRef.parameterNotFoundAction"}},
		},
	},
	{
		kind: "MutatingAdmissionPolicy",
		valid: `{apiVersion: admissionregistration.k8s.io/v1, kind: MutatingAdmissionPolicy, metadata: {name: a}, spec: {reinvocationPolicy: Never,
		  matchConstraints: {resourceRules: [{operations: [CREATE], apiGroups: [""], apiVersions: [v1], resources: [pods]}]},
		  mutations: [{patchType: JSONPatch, jsonPatch: {expression: '[JSONPatch{op: "add", path: "/metadata/labels/a", value: "b"}]'}}]}}`,
		create: []patchCase{
			{`spec: {reinvocationPolicy: null}`, []string{"required spec.reinvocationPolicy"}},
			{`spec: {mutations: [{patchType: JSONPatch}]}`, []string{"required spec.mutations[0].jsonPatch"}},
			{`spec: {mutations: [{patchType: JSONPatch, jsonPatch: {expression: "1"}}]}`, []string{"invalid spec.mutations[0].jsonPatch.expression"}},
		},
	},
	{
		kind: "FlowSchema",
		valid: `{apiVersion: flowcontrol.apiserver.k8s.io/v1, kind: FlowSchema, metadata: {name: a}, spec: {priorityLevelConfiguration: {name: b}, distinguisherMethod: {type: ByUser},
		  rules: [{subjects: [{kind: Group, group: {name: x}}], resourceRules: [{verbs: [get], apiGroups: ["*"], resources: ["*"], clusterScope: true, namespaces: ["*"]}]}]}}`,
		create: []patchCase{
			{`spec: {matchingPrecedence: 1}`, []string{"invalid spec.matchingPrecedence"}},
			{`spec: {rules: [{subjects: []}]}`, []string{"required spec.rules[0].subjects", "required spec.rules[0]"}},
		},
	},
	{
		kind:   "PriorityLevelConfiguration",
		valid:  `{apiVersion: flowcontrol.apiserver.k8s.io/v1, kind: PriorityLevelConfiguration, metadata: {name: a}, spec: {type: Limited, limited: {limitResponse: {type: Queue, queuing: {}}}}}`,
		create: []patchCase{{`spec: {limited: {limitResponse: {queuing: {handSize: 65}}}}`, []string{"invalid spec.limited.limitResponse.queuing.handSize"}}, {`spec: {type: Exempt}`, []string{"invalid spec.type", "forbidden spec.limited"}}},
	},
}

func TestServiceStatus(t *testing.T) {
	old := parse[*corev1.Service](t, `{apiVersion: v1, kind: Service, metadata: {name: a, namespace: b, resourceVersion: "1"}, spec: {type: LoadBalancer, ports: [{port: 1}]}}`)
	now := old.DeepCopy()
	now.Status.LoadBalancer.Ingress = []corev1.LoadBalancerIngress{{IP: "x"}, {Hostname: "1.2.3.4"}}
	compare(t, UpdateStatus(t.Context(), now, old), []string{
		"invalid status.loadBalancer.ingress[0].ip", "required status.loadBalancer.ingress[0].ipMode", "invalid status.loadBalancer.ingress[1].hostname"})
	now.Spec.Type = corev1.ServiceTypeClusterIP
	compare(t, UpdateStatus(t.Context(), now, old), []string{"forbidden status.loadBalancer.ingress"})
}
