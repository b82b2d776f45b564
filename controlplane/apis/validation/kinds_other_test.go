package validation

// otherKinds are those of networking, rights, storage, admission and flow control.
var otherKinds = []kindCase{
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
