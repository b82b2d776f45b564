package validation

import (
	"sync"

	admissionv1 "k8s.io/api/admissionregistration/v1"
	appsv1 "k8s.io/api/apps/v1"
	autoscalingv1 "k8s.io/api/autoscaling/v1"
	autoscalingv2 "k8s.io/api/autoscaling/v2"
	batchv1 "k8s.io/api/batch/v1"
	certificatesv1 "k8s.io/api/certificates/v1"
	coordinationv1 "k8s.io/api/coordination/v1"
	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	eventsv1 "k8s.io/api/events/v1"
	flowcontrolv1 "k8s.io/api/flowcontrol/v1"
	networkingv1 "k8s.io/api/networking/v1"
	nodev1 "k8s.io/api/node/v1"
	policyv1 "k8s.io/api/policy/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	resourcev1 "k8s.io/api/resource/v1"
	schedulingv1 "k8s.io/api/scheduling/v1"
	storagev1 "k8s.io/api/storage/v1"
	apivalidation "k8s.io/apimachinery/pkg/api/validation"
	"k8s.io/apimachinery/pkg/util/validation/field"
)

// kinds is the table of what is known, built once on first use.
var kinds = sync.OnceValue(func() table {
	t := table{}
	registerCore(t)
	registerApps(t)
	registerCluster(t)
	registerNetwork(t)
	registerStorage(t)
	registerPolicy(t)
	return t
})

// name and label are the usual rules for metadata.name; a nil rule means any path segment.
var (
	name  = apivalidation.NameIsDNSSubdomain
	label = apivalidation.NameIsDNSLabel
)

func registerCore(t table) {
	register(t, kind[*corev1.Pod]{name: name, create: podCreate, update: podUpdate, status: podStatus,
		other: map[string]func(pod, old *corev1.Pod) field.ErrorList{"resize": podResize, "ephemeralcontainers": podEphemeralContainers}})
	register(t, kind[*corev1.PodTemplate]{name: name, create: podTemplateCreate})
	register(t, kind[*corev1.Service]{name: apivalidation.NameIsDNS1035Label, create: serviceCreate, update: serviceUpdate, status: serviceStatus})
	register(t, kind[*corev1.Node]{name: name, clusterScoped: true, create: nodeCreate, update: nodeUpdate, status: nodeStatus})
	register(t, kind[*corev1.ConfigMap]{name: name, create: configMapCreate, update: configMapUpdate})
	register(t, kind[*corev1.Secret]{name: name, create: secretCreate, update: secretUpdate})
	register(t, kind[*corev1.PersistentVolumeClaim]{name: name, create: claimCreate, update: claimUpdate, status: claimStatus})
	register(t, kind[*corev1.Namespace]{name: label, clusterScoped: true, create: namespaceCreate, status: namespaceStatus,
		other: map[string]func(n, old *corev1.Namespace) field.ErrorList{"finalize": namespaceFinalize}})
	register(t, kind[*corev1.ServiceAccount]{name: name})
	register(t, kind[*corev1.Endpoints]{name: name, create: endpointsCreate, update: endpointsUpdate})
	register(t, kind[*corev1.ReplicationController]{name: name, create: replicationControllerCreate, update: replicationControllerUpdate, status: replicationControllerStatus})
	register(t, kind[*corev1.Event]{ownMetadata: true, create: eventCreate, update: eventUpdate})
	register(t, kind[*eventsv1.Event]{ownMetadata: true, create: newEventCreate, update: newEventUpdate})
	register(t, kind[*corev1.LimitRange]{name: name, create: limitRangeCreate})
	register(t, kind[*corev1.ResourceQuota]{name: name, create: quotaCreate, update: quotaUpdate, status: quotaStatus})
	register(t, kind[*corev1.PersistentVolume]{name: name, clusterScoped: true, create: volumeCreate, update: volumeUpdate, status: volumeStatus})
}

func registerApps(t table) {
	register(t, kind[*appsv1.Deployment]{name: name, create: deploymentCreate, update: deploymentUpdate, status: deploymentStatus})
	register(t, kind[*appsv1.ReplicaSet]{name: name, create: replicaSetCreate, update: replicaSetUpdate, status: replicaSetStatus})
	register(t, kind[*appsv1.DaemonSet]{name: name, create: daemonSetCreate, update: daemonSetUpdate, status: daemonSetStatus})
	register(t, kind[*appsv1.StatefulSet]{name: name, create: statefulSetCreate, update: statefulSetUpdate, status: statefulSetStatus})
	register(t, kind[*appsv1.ControllerRevision]{name: name, create: controllerRevisionCreate, update: controllerRevisionUpdate})
	register(t, kind[*batchv1.Job]{name: name, create: jobCreate, update: jobUpdate, status: jobStatus})
	register(t, kind[*batchv1.CronJob]{name: name, create: cronJobCreate, update: cronJobUpdate})
	register(t, kind[*autoscalingv1.HorizontalPodAutoscaler]{name: name, create: autoscalerV1Create})
	register(t, kind[*autoscalingv2.HorizontalPodAutoscaler]{name: name, create: autoscalerCreate, status: autoscalerStatus})
	register(t, kind[*autoscalingv1.Scale]{name: name, create: scaleCreate})
	register(t, kind[*policyv1.PodDisruptionBudget]{create: budgetCreate, status: budgetStatus})
}

func registerCluster(t table) {
	register(t, kind[*coordinationv1.Lease]{name: name, create: leaseCreate})
	register(t, kind[*certificatesv1.CertificateSigningRequest]{name: name, clusterScoped: true, create: csrCreate, update: csrUpdate, status: csrStatus,
		other: map[string]func(c, old *certificatesv1.CertificateSigningRequest) field.ErrorList{"approval": csrApproval}})
	register(t, kind[*schedulingv1.PriorityClass]{name: name, clusterScoped: true, create: priorityClassCreate, update: priorityClassUpdate})
	register(t, kind[*nodev1.RuntimeClass]{name: name, clusterScoped: true, create: runtimeClassCreate, update: runtimeClassUpdate})
	register(t, kind[*flowcontrolv1.FlowSchema]{name: name, clusterScoped: true, create: flowSchemaCreate, status: flowSchemaStatus})
	register(t, kind[*flowcontrolv1.PriorityLevelConfiguration]{name: name, clusterScoped: true, create: priorityLevelCreate, status: priorityLevelStatus})
	register(t, kind[*resourcev1.DeviceClass]{name: name, clusterScoped: true})
	register(t, kind[*resourcev1.ResourceSlice]{name: name, clusterScoped: true})
	register(t, kind[*resourcev1.ResourceClaim]{name: name})
	register(t, kind[*resourcev1.ResourceClaimTemplate]{name: name})
}

func registerNetwork(t table) {
	register(t, kind[*discoveryv1.EndpointSlice]{name: name, create: endpointSliceCreate, update: endpointSliceUpdate})
	register(t, kind[*networkingv1.Ingress]{name: name, create: ingressCreate, status: ingressStatus})
	register(t, kind[*networkingv1.IngressClass]{name: name, clusterScoped: true, create: ingressClassCreate, update: ingressClassUpdate})
	register(t, kind[*networkingv1.NetworkPolicy]{name: name, create: networkPolicyCreate})
	register(t, kind[*networkingv1.IPAddress]{clusterScoped: true, create: ipAddressCreate, update: ipAddressUpdate})
	register(t, kind[*networkingv1.ServiceCIDR]{name: name, clusterScoped: true, create: serviceCIDRCreate, update: serviceCIDRUpdate, status: serviceCIDRStatus})
}

func registerStorage(t table) {
	register(t, kind[*storagev1.StorageClass]{name: name, clusterScoped: true, create: storageClassCreate, update: storageClassUpdate})
	register(t, kind[*storagev1.CSIDriver]{name: name, clusterScoped: true, create: csiDriverCreate, update: csiDriverUpdate})
	register(t, kind[*storagev1.CSINode]{name: name, clusterScoped: true, create: csiNodeCreate, update: csiNodeUpdate})
	register(t, kind[*storagev1.VolumeAttachment]{name: name, clusterScoped: true, create: attachmentCreate, update: attachmentUpdate, status: attachmentStatus})
	register(t, kind[*storagev1.CSIStorageCapacity]{name: name, create: capacityCreate, update: capacityUpdate})
	register(t, kind[*storagev1.VolumeAttributesClass]{name: name, clusterScoped: true, create: attributesClassCreate, update: attributesClassUpdate})
}

func registerPolicy(t table) {
	register(t, kind[*rbacv1.Role]{create: roleCreate})
	register(t, kind[*rbacv1.ClusterRole]{clusterScoped: true, create: clusterRoleCreate})
	register(t, kind[*rbacv1.RoleBinding]{create: roleBindingCreate, update: roleBindingUpdate})
	register(t, kind[*rbacv1.ClusterRoleBinding]{clusterScoped: true, create: clusterRoleBindingCreate, update: clusterRoleBindingUpdate})
	register(t, kind[*admissionv1.ValidatingWebhookConfiguration]{name: name, clusterScoped: true, create: validatingWebhooksCreate})
	register(t, kind[*admissionv1.MutatingWebhookConfiguration]{name: name, clusterScoped: true, create: mutatingWebhooksCreate})
	register(t, kind[*admissionv1.ValidatingAdmissionPolicy]{name: name, clusterScoped: true, create: validatingPolicyCreate, status: validatingPolicyStatus})
	register(t, kind[*admissionv1.ValidatingAdmissionPolicyBinding]{name: name, clusterScoped: true, create: validatingBindingCreate})
	register(t, kind[*admissionv1.MutatingAdmissionPolicy]{name: name, clusterScoped: true, create: mutatingPolicyCreate})
	register(t, kind[*admissionv1.MutatingAdmissionPolicyBinding]{name: name, clusterScoped: true, create: mutatingBindingCreate})
}
