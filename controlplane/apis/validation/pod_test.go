package validation

import (
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/intstr"
	"k8s.io/utils/ptr"
)

// fullPod uses most of what a pod can say, all of it valid.
const fullPod = `
apiVersion: v1
kind: Pod
metadata: {name: web-0, namespace: default, labels: {app: web}}
spec:
  hostname: web-0
  subdomain: web
  nodeSelector: {disk: ssd}
  serviceAccountName: web
  priorityClassName: high
  runtimeClassName: native
  activeDeadlineSeconds: 100
  imagePullSecrets: [{name: registry}]
  hostAliases: [{ip: 10.0.0.1, hostnames: [a.example]}]
  readinessGates: [{conditionType: example.com/ready}]
  dnsPolicy: None
  dnsConfig: {nameservers: [10.96.0.10], searches: [a.example, _tcp.b.example, .], options: [{name: ndots, value: "2"}]}
  securityContext: {runAsUser: 1, runAsGroup: 1, fsGroup: 1, supplementalGroups: [2], fsGroupChangePolicy: Always,
    sysctls: [{name: net.ipv4.ip_unprivileged_port_start, value: "0"}], seccompProfile: {type: RuntimeDefault}}
  tolerations: [{operator: Exists}, {key: a, value: b, effect: NoExecute, tolerationSeconds: 3}]
  affinity:
    nodeAffinity:
      requiredDuringSchedulingIgnoredDuringExecution: {nodeSelectorTerms: [{matchExpressions: [{key: a, operator: In, values: [b]}], matchFields: [{key: metadata.name, operator: In, values: [node1]}]}]}
      preferredDuringSchedulingIgnoredDuringExecution: [{weight: 1, preference: {matchExpressions: [{key: a, operator: Exists}]}}]
    podAntiAffinity:
      requiredDuringSchedulingIgnoredDuringExecution: [{topologyKey: zone, labelSelector: {matchLabels: {app: web}}, namespaces: [a], matchLabelKeys: [v]}]
  topologySpreadConstraints: [{maxSkew: 1, topologyKey: zone, whenUnsatisfiable: DoNotSchedule, minDomains: 2, labelSelector: {matchLabels: {app: web}}, matchLabelKeys: [v]}]
  initContainers:
  - {name: init, image: a, command: ["true"]}
  - {name: side, image: a, restartPolicy: Always, startupProbe: {tcpSocket: {port: 1}}, ports: [{containerPort: 9, hostPort: 9}]}
  containers:
  - name: web
    image: web:1
    ports: [{name: http, containerPort: 80, hostPort: 80}, {containerPort: 80, protocol: UDP, hostPort: 80}]
    env: [{name: A, value: b}, {name: B, valueFrom: {fieldRef: {fieldPath: "metadata.labels['app']"}}}, {name: C, valueFrom: {resourceFieldRef: {resource: limits.cpu, divisor: 1m}}},
      {name: D, valueFrom: {secretKeyRef: {name: s, key: k}}}, {name: E, valueFrom: {configMapKeyRef: {name: s, key: k, optional: true}}}]
    envFrom: [{prefix: P_, configMapRef: {name: c}}, {secretRef: {name: s}}]
    resources: {requests: {cpu: 100m, memory: 1Mi}, limits: {cpu: 1, memory: 1Mi, example.com/gpu: 1}}
    livenessProbe: {httpGet: {path: /, port: http, httpHeaders: [{name: X-A, value: b}]}, terminationGracePeriodSeconds: 1}
    readinessProbe: {exec: {command: ["true"]}, successThreshold: 2}
    lifecycle: {preStop: {sleep: {seconds: 3}}, postStart: {exec: {command: ["true"]}}}
    volumeMounts: [{name: scratch, mountPath: /tmp, subPath: a/b}, {name: token, mountPath: /token, readOnly: true}, {name: host, mountPath: /host, mountPropagation: HostToContainer}]
    volumeDevices: [{name: claim, devicePath: /dev/x}]
    securityContext: {allowPrivilegeEscalation: false, capabilities: {drop: [ALL]}}
  volumes:
  - {name: scratch, emptyDir: {medium: Memory, sizeLimit: 1Mi}}
  - {name: host, hostPath: {path: /etc, type: Directory}}
  - {name: conf, configMap: {name: c, items: [{key: a, path: b/c, mode: 256}]}}
  - {name: secret, secret: {secretName: s}}
  - {name: down, downwardAPI: {items: [{path: labels, fieldRef: {fieldPath: metadata.labels}}, {path: cpu, resourceFieldRef: {containerName: web, resource: limits.cpu}}]}}
  - {name: claim, persistentVolumeClaim: {claimName: c}}
  - {name: eph, ephemeral: {volumeClaimTemplate: {spec: {accessModes: [ReadWriteOnce], resources: {requests: {storage: 1Gi}}}}}}
  - {name: nfs, nfs: {server: a, path: /}}
  - {name: csi, csi: {driver: a.example}}
  - {name: img, image: {reference: a}}
  - name: token
    projected: {sources: [{serviceAccountToken: {path: token, expirationSeconds: 3607}}, {configMap: {name: kube-root-ca.crt, items: [{key: ca.crt, path: ca.crt}]}}, {downwardAPI: {items: [{path: namespace, fieldRef: {fieldPath: metadata.namespace}}]}}]}
`

func TestPodCreate(t *testing.T) {
	type pod = *corev1.Pod
	main := func(p pod) *corev1.Container { return &p.Spec.Containers[0] }
	checkCreate(t, fullPod, []createCase[pod]{
		{"no name", func(p pod) { p.Name = "" }, []string{"required metadata.name"}},
		{"name", func(p pod) { p.Name = "A_b" }, []string{"invalid metadata.name"}},
		{"labels", func(p pod) { p.Labels["x y"] = "a b" }, []string{"invalid metadata.labels", "invalid metadata.labels"}},
		{"no containers", func(p pod) { p.Spec.Containers = nil }, []string{"required spec.containers"}},
		{"container name", func(p pod) { main(p).Name = "" }, []string{"required spec.containers[0].name"}},
		{"container name not a label", func(p pod) { main(p).Name = "a.b" }, []string{"invalid spec.containers[0].name"}},
		{"init and app of one name", func(p pod) { p.Spec.InitContainers[0].Name = "web" }, []string{"duplicate spec.initContainers[0].name"}},
		{"no image", func(p pod) { main(p).Image = "" }, []string{"required spec.containers[0].image"}},
		{"image with spaces", func(p pod) { main(p).Image = " a" }, []string{"invalid spec.containers[0].image"}},
		{"pull policy", func(p pod) { main(p).ImagePullPolicy = "Sometimes" }, []string{"unsupported spec.containers[0].imagePullPolicy"}},
		{"termination message policy", func(p pod) { main(p).TerminationMessagePolicy = "x" }, []string{"unsupported spec.containers[0].terminationMessagePolicy"}},
		{"port twice by name", func(p pod) { main(p).Ports[1].Name = "http" }, []string{"duplicate spec.containers[0].ports[1].name"}},
		{"port name", func(p pod) { main(p).Ports[1].Name = "this-name-is-too-long" }, []string{"invalid spec.containers[0].ports[1].name"}},
		{"no container port", func(p pod) { main(p).Ports[0].ContainerPort = 0 }, []string{"required spec.containers[0].ports[0].containerPort"}},
		{"container port", func(p pod) { main(p).Ports[0].ContainerPort = 65536 }, []string{"invalid spec.containers[0].ports[0].containerPort"}},
		{"host port", func(p pod) { main(p).Ports[0].HostPort = -1 }, []string{"invalid spec.containers[0].ports[0].hostPort"}},
		{"host port twice", func(p pod) { main(p).Ports[1].Protocol = "TCP" }, []string{"duplicate spec.containers[0].ports[1].hostPort"}},
		{"host port of app and sidecar", func(p pod) { p.Spec.InitContainers[1].Ports[0].HostPort = 80 }, []string{"duplicate spec.initContainers[1].ports[0].hostPort"}},
		{"protocol", func(p pod) { main(p).Ports[0].Protocol = "ICMP" }, []string{"unsupported spec.containers[0].ports[0].protocol"}},
		{"env name", func(p pod) { main(p).Env[0].Name = "" }, []string{"required spec.containers[0].env[0].name"}},
		{"env name with =", func(p pod) { main(p).Env[0].Name = "a=b" }, []string{"invalid spec.containers[0].env[0].name"}},
		{"env value and valueFrom", func(p pod) { main(p).Env[1].Value = "a" }, []string{"invalid spec.containers[0].env[1].valueFrom"}},
		{"env from nothing", func(p pod) { main(p).Env[1].ValueFrom = &corev1.EnvVarSource{} }, []string{"invalid spec.containers[0].env[1].valueFrom"}},
		{"env from two", func(p pod) { main(p).Env[1].ValueFrom.SecretKeyRef = main(p).Env[3].ValueFrom.SecretKeyRef }, []string{"invalid spec.containers[0].env[1].valueFrom"}},
		{"env field", func(p pod) { main(p).Env[1].ValueFrom.FieldRef.FieldPath = "spec.nonsense" }, []string{"invalid spec.containers[0].env[1].valueFrom.fieldRef.fieldPath"}},
		{"env field only for files", func(p pod) { main(p).Env[1].ValueFrom.FieldRef.FieldPath = "metadata.labels" }, []string{"unsupported spec.containers[0].env[1].valueFrom.fieldRef.fieldPath"}},
		{"env resource", func(p pod) { main(p).Env[2].ValueFrom.ResourceFieldRef.Resource = "limits.disk" },
			[]string{"unsupported spec.containers[0].env[2].valueFrom.resourceFieldRef.resource", "invalid spec.containers[0].env[2].valueFrom.resourceFieldRef.divisor"}},
		{"env divisor", func(p pod) { main(p).Env[2].ValueFrom.ResourceFieldRef.Divisor = resource.MustParse("2") }, []string{"invalid spec.containers[0].env[2].valueFrom.resourceFieldRef.divisor"}},
		{"env secret key", func(p pod) { main(p).Env[3].ValueFrom.SecretKeyRef.Key = "" }, []string{"required spec.containers[0].env[3].valueFrom.secretKeyRef.key"}},
		{"env config name", func(p pod) { main(p).Env[4].ValueFrom.ConfigMapKeyRef.Name = "A b" }, []string{"invalid spec.containers[0].env[4].valueFrom.configMapKeyRef.name"}},
		{"envFrom nothing", func(p pod) { main(p).EnvFrom[1].SecretRef = nil }, []string{"invalid spec.containers[0].envFrom[1]"}},
		{"envFrom no name", func(p pod) { main(p).EnvFrom[1].SecretRef.Name = "" }, []string{"required spec.containers[0].envFrom[1].secretRef.name"}},
		{"negative request", func(p pod) { main(p).Resources.Requests["cpu"] = resource.MustParse("-1") }, []string{"invalid spec.containers[0].resources.requests[cpu]"}},
		{"request above limit", func(p pod) { main(p).Resources.Requests["cpu"] = resource.MustParse("2") }, []string{"invalid spec.containers[0].resources.requests"}},
		{"extended request below limit", func(p pod) { main(p).Resources.Requests["example.com/gpu"] = resource.MustParse("0") }, []string{"invalid spec.containers[0].resources.requests"}},
		{"part of a device", func(p pod) {
			main(p).Resources.Limits["example.com/gpu"] = resource.MustParse("500m")
			main(p).Resources.Requests["example.com/gpu"] = resource.MustParse("500m")
		}, []string{"invalid spec.containers[0].resources.limits[example.com/gpu]", "invalid spec.containers[0].resources.requests[example.com/gpu]"}},
		{"unknown resource", func(p pod) { main(p).Resources.Requests["pods"] = resource.MustParse("1") }, []string{"invalid spec.containers[0].resources.requests[pods]"}},
		{"device without limit", func(p pod) { main(p).Resources.Requests["example.com/tpu"] = resource.MustParse("1") }, []string{"required spec.containers[0].resources.limits"}},
		{"unknown claim", func(p pod) { main(p).Resources.Claims = []corev1.ResourceClaim{{Name: "x"}} }, []string{"notfound spec.containers[0].resources.claims[0].name"}},
		{"probe without handler", func(p pod) { main(p).LivenessProbe.HTTPGet = nil }, []string{"required spec.containers[0].livenessProbe"}},
		{"probe with two handlers", func(p pod) { main(p).LivenessProbe.Exec = &corev1.ExecAction{Command: []string{"a"}} }, []string{"forbidden spec.containers[0].livenessProbe.httpGet"}},
		{"probe exec nothing", func(p pod) { main(p).ReadinessProbe.Exec.Command = nil }, []string{"required spec.containers[0].readinessProbe.exec.command"}},
		{"probe port", func(p pod) { main(p).LivenessProbe.HTTPGet.Port = intstr.FromInt32(0) }, []string{"invalid spec.containers[0].livenessProbe.httpGet.port"}},
		{"probe scheme", func(p pod) { main(p).LivenessProbe.HTTPGet.Scheme = "FTP" }, []string{"unsupported spec.containers[0].livenessProbe.httpGet.scheme"}},
		{"probe header", func(p pod) { main(p).LivenessProbe.HTTPGet.HTTPHeaders[0].Name = "a b" }, []string{"invalid spec.containers[0].livenessProbe.httpGet.httpHeaders[0].name"}},
		{"liveness success threshold", func(p pod) { main(p).LivenessProbe.SuccessThreshold = 2 }, []string{"invalid spec.containers[0].livenessProbe.successThreshold"}},
		{"negative period", func(p pod) { main(p).LivenessProbe.PeriodSeconds = -1 }, []string{"invalid spec.containers[0].livenessProbe.periodSeconds"}},
		{"readiness grace period", func(p pod) { main(p).ReadinessProbe.TerminationGracePeriodSeconds = ptr.To[int64](1) }, []string{"invalid spec.containers[0].readinessProbe.terminationGracePeriodSeconds"}},
		{"long sleep", func(p pod) { main(p).Lifecycle.PreStop.Sleep.Seconds = 31 }, []string{"invalid spec.containers[0].lifecycle.preStop.sleep"}},
		{"stop signal without os", func(p pod) { main(p).Lifecycle.StopSignal = ptr.To[corev1.Signal]("SIGTERM") }, []string{"forbidden spec.containers[0].lifecycle.stopSignal"}},
		{"init container with a probe", func(p pod) { p.Spec.InitContainers[0].LivenessProbe = main(p).LivenessProbe.DeepCopy() }, []string{"forbidden spec.initContainers[0].livenessProbe"}},
		{"unknown mount", func(p pod) { main(p).VolumeMounts[0].Name = "x" }, []string{"notfound spec.containers[0].volumeMounts[0].name"}},
		{"no mount path", func(p pod) { main(p).VolumeMounts[0].MountPath = "" }, []string{"required spec.containers[0].volumeMounts[0].mountPath"}},
		{"mount path twice", func(p pod) { main(p).VolumeMounts[1].MountPath = "/tmp" }, []string{"invalid spec.containers[0].volumeMounts[1].mountPath"}},
		{"sub path climbs", func(p pod) { main(p).VolumeMounts[0].SubPath = "a/../../b" }, []string{"invalid spec.containers[0].volumeMounts[0].subPath"}},
		{"sub path absolute", func(p pod) { main(p).VolumeMounts[0].SubPath = "/a" }, []string{"invalid spec.containers[0].volumeMounts[0].subPath"}},
		{"both sub paths", func(p pod) { main(p).VolumeMounts[0].SubPathExpr = "$(A)" }, []string{"invalid spec.containers[0].volumeMounts[0].subPathExpr"}},
		{"bidirectional unprivileged", func(p pod) { main(p).VolumeMounts[2].MountPropagation = ptr.To(corev1.MountPropagationBidirectional) }, []string{"forbidden spec.containers[0].volumeMounts[2].mountPropagation"}},
		{"recursive read only on a writable mount", func(p pod) { main(p).VolumeMounts[0].RecursiveReadOnly = ptr.To(corev1.RecursiveReadOnlyEnabled) }, []string{"forbidden spec.containers[0].volumeMounts[0].recursiveReadOnly"}},
		{"device of a file volume", func(p pod) { main(p).VolumeDevices[0].Name = "conf" }, []string{"invalid spec.containers[0].volumeDevices[0].name"}},
		{"privileged without escalation", func(p pod) { main(p).SecurityContext.Privileged = ptr.To(true) }, []string{"invalid spec.containers[0].securityContext"}},
		{"run as user", func(p pod) { main(p).SecurityContext.RunAsUser = ptr.To[int64](-1) }, []string{"invalid spec.containers[0].securityContext.runAsUser"}},
		{"proc mount", func(p pod) { main(p).SecurityContext.ProcMount = ptr.To(corev1.UnmaskedProcMount) }, []string{"invalid spec.containers[0].securityContext.procMount"}},
		{"seccomp localhost", func(p pod) { p.Spec.SecurityContext.SeccompProfile.Type = "Localhost" }, []string{"required spec.securityContext.seccompProfile.localhostProfile"}},
		{"fs group", func(p pod) { p.Spec.SecurityContext.FSGroup = ptr.To[int64](-1) }, []string{"invalid spec.securityContext.fsGroup"}},
		{"sysctl name", func(p pod) { p.Spec.SecurityContext.Sysctls[0].Name = "Net..x" }, []string{"invalid spec.securityContext.sysctls[0].name"}},
		{"sysctl of the host's network", func(p pod) {
			p.Spec.HostNetwork = true
			for i := range p.Spec.InitContainers[1].Ports {
				p.Spec.InitContainers[1].Ports[i].HostPort = 9
			}
		}, []string{"invalid spec.securityContext.sysctls[0].name"}},
		{"host network with another host port", func(p pod) {
			p.Spec.HostNetwork = true
			p.Spec.SecurityContext.Sysctls = nil
			main(p).Ports[0].ContainerPort = 81
		}, []string{"invalid spec.containers[0].ports[0].containerPort"}},
		{"user namespace and host pid", func(p pod) { p.Spec.HostUsers = ptr.To(false); p.Spec.HostPID = true; main(p).VolumeDevices = nil }, []string{"forbidden spec.hostPID"}},
		{"shared and host pid", func(p pod) { p.Spec.ShareProcessNamespace = ptr.To(true); p.Spec.HostPID = true }, []string{"invalid spec.securityContext.shareProcessNamespace"}},
		{"volume twice", func(p pod) { p.Spec.Volumes[2].Name = "scratch" }, []string{"duplicate spec.volumes[2].name"}},
		{"volume of two sources", func(p pod) { p.Spec.Volumes[0].HostPath = &corev1.HostPathVolumeSource{Path: "/"} }, []string{"forbidden spec.volumes[0].emptyDir"}},
		{"volume of no source", func(p pod) { p.Spec.Volumes[2].VolumeSource = corev1.VolumeSource{} }, []string{"required spec.volumes[2]"}},
		{"host path climbs", func(p pod) { p.Spec.Volumes[1].HostPath.Path = "/a/../b" }, []string{"invalid spec.volumes[1].hostPath.path"}},
		{"host path type", func(p pod) { p.Spec.Volumes[1].HostPath.Type = ptr.To[corev1.HostPathType]("Pipe") }, []string{"unsupported spec.volumes[1].hostPath.type"}},
		{"mode", func(p pod) { p.Spec.Volumes[2].ConfigMap.DefaultMode = ptr.To[int32](0o1000) }, []string{"invalid spec.volumes[2].configMap.defaultMode"}},
		{"item path", func(p pod) { p.Spec.Volumes[2].ConfigMap.Items[0].Path = "../a" }, []string{"invalid spec.volumes[2].configMap.items[0].path"}},
		{"no secret name", func(p pod) { p.Spec.Volumes[3].Secret.SecretName = "" }, []string{"required spec.volumes[3].secret.secretName"}},
		{"downward file without source", func(p pod) { p.Spec.Volumes[4].DownwardAPI.Items[0].FieldRef = nil }, []string{"required spec.volumes[4].downwardAPI.items[0]"}},
		{"no claim name", func(p pod) { p.Spec.Volumes[5].PersistentVolumeClaim.ClaimName = "" }, []string{"required spec.volumes[5].persistentVolumeClaim.claimName"}},
		{"claim template", func(p pod) { p.Spec.Volumes[6].Ephemeral.VolumeClaimTemplate.Spec.AccessModes = nil }, []string{"required spec.volumes[6].ephemeral.volumeClaimTemplate.spec.accessModes"}},
		{"nfs path", func(p pod) { p.Spec.Volumes[7].NFS.Path = "a" }, []string{"invalid spec.volumes[7].nfs.path"}},
		{"csi driver", func(p pod) { p.Spec.Volumes[8].CSI.Driver = "" }, []string{"required spec.volumes[8].csi.driver"}},
		{"short token", func(p pod) {
			p.Spec.Volumes[10].Projected.Sources[0].ServiceAccountToken.ExpirationSeconds = ptr.To[int64](599)
		}, []string{"invalid spec.volumes[10].projected.sources[0].serviceAccountToken.expirationSeconds"}},
		{"projected path twice", func(p pod) { p.Spec.Volumes[10].Projected.Sources[0].ServiceAccountToken.Path = "ca.crt" }, []string{"invalid spec.volumes[10].projected.sources[1].configMap"}},
		{"restart policy", func(p pod) { p.Spec.RestartPolicy = "Maybe" }, []string{"unsupported spec.restartPolicy"}},
		{"dns policy", func(p pod) { p.Spec.DNSPolicy = "X" }, []string{"unsupported spec.dnsPolicy"}},
		{"no dns", func(p pod) { p.Spec.DNSConfig = nil }, []string{"required spec.dnsConfig"}},
		{"nameserver", func(p pod) { p.Spec.DNSConfig.Nameservers[0] = "x" }, []string{"invalid spec.dnsConfig.nameservers[0]"}},
		{"nameservers", func(p pod) { p.Spec.DNSConfig.Nameservers = []string{"1.1.1.1", "1.1.1.2", "1.1.1.3", "1.1.1.4"} }, []string{"invalid spec.dnsConfig.nameservers"}},
		{"search", func(p pod) { p.Spec.DNSConfig.Searches[0] = "a b" }, []string{"invalid spec.dnsConfig.searches[0]"}},
		{"hostname", func(p pod) { p.Spec.Hostname = strings.Repeat("a", 64) }, []string{"invalid spec.hostname"}},
		{"host alias", func(p pod) { p.Spec.HostAliases[0].IP = "999.1.1.1" }, []string{"invalid spec.hostAliases[0].ip"}},
		{"node selector", func(p pod) { p.Spec.NodeSelector["a b"] = "c" }, []string{"invalid spec.nodeSelector"}},
		{"service account", func(p pod) { p.Spec.ServiceAccountName = "A" }, []string{"invalid spec.serviceAccountName"}},
		{"deadline", func(p pod) { p.Spec.ActiveDeadlineSeconds = ptr.To[int64](0) }, []string{"invalid spec.activeDeadlineSeconds"}},
		{"toleration without key", func(p pod) { p.Spec.Tolerations[0].Operator = "Equal" }, []string{"invalid spec.tolerations[0].operator"}},
		{"toleration seconds", func(p pod) { p.Spec.Tolerations[1].Effect = "NoSchedule" }, []string{"invalid spec.tolerations[1].effect"}},
		{"toleration operator", func(p pod) { p.Spec.Tolerations[1].Operator = "In" }, []string{"unsupported spec.tolerations[1].operator"}},
		{"toleration effect", func(p pod) { p.Spec.Tolerations[0].Effect = "X" }, []string{"unsupported spec.tolerations[0].effect"}},
		{"no node terms", func(p pod) {
			p.Spec.Affinity.NodeAffinity.RequiredDuringSchedulingIgnoredDuringExecution.NodeSelectorTerms = nil
		},
			[]string{"required spec.affinity.nodeAffinity.requiredDuringSchedulingIgnoredDuringExecution.nodeSelectorTerms"}},
		{"node operator", func(p pod) {
			p.Spec.Affinity.NodeAffinity.PreferredDuringSchedulingIgnoredDuringExecution[0].Preference.MatchExpressions[0].Operator = "X"
		},
			[]string{"invalid spec.affinity.nodeAffinity.preferredDuringSchedulingIgnoredDuringExecution[0].preference.matchExpressions[0].operator"}},
		{"node weight", func(p pod) {
			p.Spec.Affinity.NodeAffinity.PreferredDuringSchedulingIgnoredDuringExecution[0].Weight = 101
		},
			[]string{"invalid spec.affinity.nodeAffinity.preferredDuringSchedulingIgnoredDuringExecution[0].weight"}},
		{"node field", func(p pod) {
			p.Spec.Affinity.NodeAffinity.RequiredDuringSchedulingIgnoredDuringExecution.NodeSelectorTerms[0].MatchFields[0].Key = "metadata.uid"
		},
			[]string{"invalid spec.affinity.nodeAffinity.requiredDuringSchedulingIgnoredDuringExecution.nodeSelectorTerms[0].matchFields[0].key"}},
		{"topology key", func(p pod) {
			p.Spec.Affinity.PodAntiAffinity.RequiredDuringSchedulingIgnoredDuringExecution[0].TopologyKey = ""
		},
			[]string{"required spec.affinity.podAntiAffinity.requiredDuringSchedulingIgnoredDuringExecution[0].topologyKey"}},
		{"skew", func(p pod) { p.Spec.TopologySpreadConstraints[0].MaxSkew = 0 }, []string{"invalid spec.topologySpreadConstraints[0].maxSkew"}},
		{"spread policy", func(p pod) { p.Spec.TopologySpreadConstraints[0].WhenUnsatisfiable = "X" },
			[]string{"unsupported spec.topologySpreadConstraints[0].whenUnsatisfiable", "invalid spec.topologySpreadConstraints[0].minDomains"}},
		{"spread twice", func(p pod) {
			p.Spec.TopologySpreadConstraints = append(p.Spec.TopologySpreadConstraints, p.Spec.TopologySpreadConstraints[0])
		},
			[]string{"duplicate spec.topologySpreadConstraints[1].{topologyKey, whenUnsatisfiable}"}},
		{"readiness gate", func(p pod) { p.Spec.ReadinessGates[0].ConditionType = "a b" }, []string{"invalid spec.readinessGates[0].conditionType"}},
		{"gate and node", func(p pod) { p.Spec.NodeName = "n"; p.Spec.SchedulingGates = []corev1.PodSchedulingGate{{Name: "a"}} }, []string{"forbidden spec.nodeName"}},
		{"gate twice", func(p pod) { p.Spec.SchedulingGates = []corev1.PodSchedulingGate{{Name: "a"}, {Name: "a"}} }, []string{"duplicate spec.schedulingGates[1]"}},
		{"ephemeral on create", func(p pod) {
			p.Spec.EphemeralContainers = []corev1.EphemeralContainer{{EphemeralContainerCommon: corev1.EphemeralContainerCommon{
				Name: "debug", Image: "a", ImagePullPolicy: "Always", TerminationMessagePolicy: "File"}}}
		}, []string{"forbidden spec.ephemeralContainers"}},
		{"mirror without node", func(p pod) { p.Annotations = map[string]string{corev1.MirrorPodAnnotationKey: "x"} }, []string{"invalid metadata.annotations[kubernetes.io/config.mirror]"}},
		{"deletion cost", func(p pod) { p.Annotations = map[string]string{corev1.PodDeletionCost: "+1"} }, []string{"invalid metadata.annotations[controller.kubernetes.io/pod-deletion-cost]"}},
		{"os", func(p pod) { p.Spec.OS = &corev1.PodOS{Name: "plan9"} }, []string{"unsupported spec.os.name"}},
		{"pod-level request below containers'", func(p pod) {
			p.Spec.Resources = &corev1.ResourceRequirements{Requests: corev1.ResourceList{"cpu": resource.MustParse("1m")}}
		}, []string{"invalid spec.resources.requests[cpu]"}},
		{"pod-level device", func(p pod) {
			p.Spec.Resources = &corev1.ResourceRequirements{Limits: corev1.ResourceList{"example.com/x": resource.MustParse("1")}}
		}, []string{"unsupported spec.resources.limits[example.com/x]"}},
		{"resource claim", func(p pod) { p.Spec.ResourceClaims = []corev1.PodResourceClaim{{Name: "a"}} }, []string{"required spec.resourceClaims[0]"}},
		{"restart rules without policy", func(p pod) {
			main(p).RestartPolicyRules = []corev1.ContainerRestartRule{{Action: "Restart", ExitCodes: &corev1.ContainerRestartRuleOnExitCodes{Operator: "In", Values: []int32{1}}}}
		}, []string{"required spec.containers[0].restartPolicy"}},
	})
}

func TestPodUpdate(t *testing.T) {
	type pod = *corev1.Pod
	checkUpdate(t, fullPod, Update, []createCase[pod]{
		{"nothing", func(pod) {}, nil},
		{"image", func(p pod) { p.Spec.Containers[0].Image = "web:2"; p.Spec.InitContainers[0].Image = "b" }, nil},
		{"no image", func(p pod) { p.Spec.Containers[0].Image = "" }, []string{"required spec.containers[0].image"}},
		{"labels", func(p pod) { p.Labels["x"] = "y" }, nil},
		{"shorter deadline", func(p pod) { p.Spec.ActiveDeadlineSeconds = ptr.To[int64](9) }, nil},
		{"longer deadline", func(p pod) { p.Spec.ActiveDeadlineSeconds = ptr.To[int64](101) }, []string{"invalid spec.activeDeadlineSeconds"}},
		{"no deadline", func(p pod) { p.Spec.ActiveDeadlineSeconds = nil }, []string{"invalid spec.activeDeadlineSeconds"}},
		{"one more toleration", func(p pod) {
			p.Spec.Tolerations = append(p.Spec.Tolerations, corev1.Toleration{Key: "z", Operator: "Exists"})
		}, nil},
		{"other toleration seconds", func(p pod) { p.Spec.Tolerations[1].TolerationSeconds = ptr.To[int64](9) }, nil},
		{"one toleration less", func(p pod) { p.Spec.Tolerations = p.Spec.Tolerations[:1] }, []string{"forbidden spec.tolerations"}},
		{"one more container", func(p pod) {
			p.Spec.Containers = append(p.Spec.Containers, *p.Spec.Containers[0].DeepCopy())
			p.Spec.Containers[1].Name, p.Spec.Containers[1].Ports = "x", nil
		}, []string{"forbidden spec.containers"}},
		{"env", func(p pod) { p.Spec.Containers[0].Env[0].Value = "z" }, []string{"forbidden spec"}},
		{"requests", func(p pod) { p.Spec.Containers[0].Resources.Requests["cpu"] = resource.MustParse("200m") }, []string{"forbidden spec"}},
		{"node selector of a scheduled pod", func(p pod) { p.Spec.NodeSelector["a"] = "b" }, []string{"forbidden spec"}},
		{"new gate", func(p pod) { p.Spec.SchedulingGates = []corev1.PodSchedulingGate{{Name: "a"}} }, []string{"forbidden spec.schedulingGates[0]"}},
		{"mirror", func(p pod) { p.Annotations = map[string]string{corev1.MirrorPodAnnotationKey: "x"} },
			[]string{"forbidden metadata.annotations[kubernetes.io/config.mirror]", "invalid metadata.annotations[kubernetes.io/config.mirror]"}},
		{"name", func(p pod) { p.Name = "other" }, []string{"invalid metadata.name"}},
	})
	gated := strings.Replace(fullPod, "spec:", "spec:\n  schedulingGates: [{name: a}]", 1)
	checkUpdate(t, gated, Update, []createCase[pod]{
		{"gate removed", func(p pod) { p.Spec.SchedulingGates = nil }, nil},
		{"gated: narrower selector", func(p pod) { p.Spec.NodeSelector["a"] = "b" }, nil},
		{"gated: wider selector", func(p pod) { p.Spec.NodeSelector = nil }, []string{"invalid spec.nodeSelector"}},
		{"gated: narrower affinity", func(p pod) {
			term := &p.Spec.Affinity.NodeAffinity.RequiredDuringSchedulingIgnoredDuringExecution.NodeSelectorTerms[0]
			term.MatchExpressions = append(term.MatchExpressions, corev1.NodeSelectorRequirement{Key: "x", Operator: "Exists"})
		}, nil},
		{"gated: other affinity", func(p pod) {
			p.Spec.Affinity.NodeAffinity.RequiredDuringSchedulingIgnoredDuringExecution.NodeSelectorTerms[0].MatchExpressions[0].Values[0] = "z"
		}, []string{"invalid spec.affinity.nodeAffinity.requiredDuringSchedulingIgnoredDuringExecution.nodeSelectorTerms[0]"}},
	})
}

func TestPodSubresources(t *testing.T) {
	type pod = *corev1.Pod
	resize := subresource("resize")
	checkUpdate(t, fullPod, resize, []createCase[pod]{
		{"resize cpu", func(p pod) { p.Spec.Containers[0].Resources.Requests["cpu"] = resource.MustParse("200m") }, nil},
		{"resize to another class", func(p pod) {
			for i := range p.Spec.Containers {
				p.Spec.Containers[i].Resources.Requests["cpu"] = p.Spec.Containers[i].Resources.Limits["cpu"]
			}
			for i := range p.Spec.InitContainers {
				p.Spec.InitContainers[i].Resources = *p.Spec.Containers[0].Resources.DeepCopy()
			}
		}, []string{"forbidden spec", "invalid spec"}},
		{"resize removes a limit", func(p pod) { delete(p.Spec.Containers[0].Resources.Limits, "cpu") }, []string{"forbidden spec.containers[0].resources.limits"}},
		{"resize a device", func(p pod) {
			p.Spec.Containers[0].Resources.Limits["example.com/gpu"] = resource.MustParse("2")
			p.Spec.Containers[0].Resources.Requests["example.com/gpu"] = resource.MustParse("2")
		}, []string{"forbidden spec"}},
		{"resize changes the image", func(p pod) { p.Spec.Containers[0].Image = "b" }, []string{"forbidden spec"}},
	})
	debug := corev1.EphemeralContainer{EphemeralContainerCommon: corev1.EphemeralContainerCommon{
		Name: "debug", Image: "a", ImagePullPolicy: "Always", TerminationMessagePolicy: "File"}, TargetContainerName: "web"}
	checkUpdate(t, fullPod, subresource("ephemeralcontainers"), []createCase[pod]{
		{"debug", func(p pod) { p.Spec.EphemeralContainers = []corev1.EphemeralContainer{debug} }, nil},
		{"debug unknown target", func(p pod) {
			d := debug
			d.TargetContainerName = "x"
			p.Spec.EphemeralContainers = []corev1.EphemeralContainer{d}
		}, []string{"notfound spec.ephemeralContainers[0].targetContainerName"}},
		{"debug with ports", func(p pod) {
			d := debug
			d.Ports = []corev1.ContainerPort{{ContainerPort: 1, Protocol: "TCP"}}
			p.Spec.EphemeralContainers = []corev1.EphemeralContainer{d}
		}, []string{"forbidden spec.ephemeralContainers[0].ports"}},
		{"debug of the app's name", func(p pod) {
			d := debug
			d.Name = "web"
			p.Spec.EphemeralContainers = []corev1.EphemeralContainer{d}
		}, []string{"duplicate spec.ephemeralContainers[0].name"}},
	})
	checkUpdate(t, fullPod, UpdateStatus, []createCase[pod]{
		{"status", func(p pod) {
			p.Status.PodIPs = []corev1.PodIP{{IP: "10.0.0.1"}, {IP: "fd00::1"}}
			p.Status.Conditions = []corev1.PodCondition{{Type: "Ready"}, {Type: "example.com/x", LastProbeTime: metav1.Now()}}
		}, nil},
		{"two addresses of a family", func(p pod) { p.Status.PodIPs = []corev1.PodIP{{IP: "10.0.0.1"}, {IP: "10.0.0.2"}} }, []string{"invalid status.podIPs"}},
		{"address", func(p pod) { p.Status.PodIPs = []corev1.PodIP{{IP: "x"}} }, []string{"invalid status.podIPs[0]"}},
		{"condition twice", func(p pod) { p.Status.Conditions = []corev1.PodCondition{{Type: "Ready"}, {Type: "Ready"}} }, []string{"duplicate status.conditions[1].type"}},
	})
}

func TestPodStatusCannotRaiseTheDead(t *testing.T) {
	old := parse[*corev1.Pod](t, fullPod)
	old.ResourceVersion = "1"
	old.Spec.RestartPolicy = corev1.RestartPolicyNever
	old.Status.ContainerStatuses = []corev1.ContainerStatus{{Name: "web", State: corev1.ContainerState{Terminated: &corev1.ContainerStateTerminated{}}}}
	now := old.DeepCopy()
	now.Status.ContainerStatuses[0].State = corev1.ContainerState{Running: &corev1.ContainerStateRunning{}}
	compare(t, UpdateStatus(t.Context(), now, old), []string{"forbidden status.containerStatuses[0].state"})
}
