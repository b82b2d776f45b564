package table

// printers by "resource.group". Roles, limit ranges and the like show name and time of creation, as upstream.
var printers = map[string]printer{
	"pods":                   podPrinter(),
	"podtemplates":           of(podTemplateCells, "Containers", "Images", "Pod Labels"),
	"replicationcontrollers": of(replicationControllerCells, "#Desired", "#Current", "#Ready", "Age", "+Containers", "+Images", "+Selector"),
	"services":               of(serviceCells, "Type", "Cluster-IP", "External-IP", "Port(s)", "Age", "+Selector"),
	"endpoints":              of(endpointsCells, "Endpoints", "Age"),
	"nodes": of(nodeCells, "Status", "Roles", "Age", "Version", "+Internal-IP", "+External-IP", "+OS-Image", "+Kernel-Version",
		"+Container-Runtime"),
	"namespaces": of(namespaceCells, "Status", "Age"),
	"events": unnamed(of(eventCells, "Last Seen", "Type", "Reason", "Object", "+Subobject", "+Source", "Message", "+First Seen",
		"+#Count", "+Name")),
	"resourcequotas":    of(resourceQuotaCells, "Request", "Limit", "Age"),
	"secrets":           of(secretCells, "Type", "#Data", "Age"),
	"serviceaccounts":   of(serviceAccountCells, "#Secrets", "Age"),
	"persistentvolumes": of(persistentVolumeCells, "Capacity", "Access Modes", "Reclaim Policy", "Status", "Claim", "StorageClass", "VolumeAttributesClass", "Reason", "Age", "+VolumeMode"),
	"persistentvolumeclaims": of(persistentVolumeClaimCells, "Status", "Volume", "Capacity", "Access Modes", "StorageClass",
		"VolumeAttributesClass", "Age", "+VolumeMode"),
	"configmaps": of(configMapCells, "#Data", "Age"),

	"deployments.apps":                     of(deploymentCells, "Ready", "#Up-to-date", "#Available", "Age", "+Containers", "+Images", "+Selector"),
	"replicasets.apps":                     of(replicaSetCells, "#Desired", "#Current", "#Ready", "Age", "+Containers", "+Images", "+Selector"),
	"statefulsets.apps":                    of(statefulSetCells, "Ready", "Age", "+Containers", "+Images"),
	"daemonsets.apps":                      of(daemonSetCells, "#Desired", "#Current", "#Ready", "#Up-to-date", "#Available", "Node Selector", "Age", "+Containers", "+Images", "+Selector"),
	"controllerrevisions.apps":             of(controllerRevisionCells, "Controller", "#Revision", "Age"),
	"jobs.batch":                           of(jobCells, "Status", "Completions", "Duration", "Age", "+Containers", "+Images", "+Selector"),
	"cronjobs.batch":                       of(cronJobCells, "Schedule", "Timezone", "Suspend", "#Active", "Last Schedule", "Age", "+Containers", "+Images", "+Selector"),
	"horizontalpodautoscalers.autoscaling": of(hpaCells, "Reference", "Targets", "MinPods", "#MaxPods", "#Replicas", "Age"),

	"networkpolicies.networking.k8s.io":              of(networkPolicyCells, "Pod-Selector", "Age"),
	"ingresses.networking.k8s.io":                    of(ingressCells, "Class", "Hosts", "Address", "Ports", "Age"),
	"ingressclasses.networking.k8s.io":               of(ingressClassCells, "Controller", "Parameters", "Age"),
	"ipaddresses.networking.k8s.io":                  of(ipAddressCells, "ParentRef", "Age"),
	"servicecidrs.networking.k8s.io":                 of(serviceCIDRCells, "CIDRs", "Age"),
	"endpointslices.discovery.k8s.io":                of(endpointSliceCells, "AddressType", "Ports", "Endpoints", "Age"),
	"leases.coordination.k8s.io":                     of(leaseCells, "Holder", "Age"),
	"certificatesigningrequests.certificates.k8s.io": of(csrCells, "Age", "SignerName", "Requestor", "RequestedDuration", "Condition"),
	"runtimeclasses.node.k8s.io":                     of(runtimeClassCells, "Handler", "Age"),

	"poddisruptionbudgets.policy":                              of(pdbCells, "Min Available", "Max Unavailable", "#Allowed Disruptions", "Age"),
	"rolebindings.rbac.authorization.k8s.io":                   of(roleBindingCells, "Role", "Age", "+Users", "+Groups", "+ServiceAccounts"),
	"clusterrolebindings.rbac.authorization.k8s.io":            of(clusterRoleBindingCells, "Role", "Age", "+Users", "+Groups", "+ServiceAccounts"),
	"priorityclasses.scheduling.k8s.io":                        of(priorityClassCells, "#Value", "Global-Default", "Age", "PreemptionPolicy"),
	"flowschemas.flowcontrol.apiserver.k8s.io":                 of(flowSchemaCells, "PriorityLevel", "#MatchingPrecedence", "DistinguisherMethod", "Age", "MissingPL"),
	"prioritylevelconfigurations.flowcontrol.apiserver.k8s.io": of(priorityLevelCells, "Type", "NominalConcurrencyShares", "Queues", "HandSize", "QueueLengthLimit", "Age"),

	"storageclasses.storage.k8s.io":          of(storageClassCells, "Provisioner", "ReclaimPolicy", "VolumeBindingMode", "AllowVolumeExpansion", "Age"),
	"volumeattachments.storage.k8s.io":       of(volumeAttachmentCells, "Attacher", "PV", "Node", "Attached", "Age"),
	"csinodes.storage.k8s.io":                of(csiNodeCells, "#Drivers", "Age"),
	"csidrivers.storage.k8s.io":              of(csiDriverCells, "AttachRequired", "PodInfoOnMount", "StorageCapacity", "TokenRequests", "RequiresRepublish", "Modes", "Age"),
	"csistoragecapacities.storage.k8s.io":    of(csiStorageCapacityCells, "StorageClassName", "Capacity"),
	"volumeattributesclasses.storage.k8s.io": of(volumeAttributesClassCells, "DriverName", "Age"),
	"deviceclasses.resource.k8s.io":          of(deviceClassCells, "Age"),
	"resourceclaims.resource.k8s.io":         of(resourceClaimCells, "State", "Age"),
	"resourceclaimtemplates.resource.k8s.io": of(resourceClaimTemplateCells, "Age"),
	"resourceslices.resource.k8s.io":         of(resourceSliceCells, "Node", "Driver", "Pool", "Age"),

	"mutatingwebhookconfigurations.admissionregistration.k8s.io":     of(mutatingWebhookCells, "#Webhooks", "Age"),
	"validatingwebhookconfigurations.admissionregistration.k8s.io":   of(validatingWebhookCells, "#Webhooks", "Age"),
	"validatingadmissionpolicies.admissionregistration.k8s.io":       of(validatingPolicyCells, "#Validations", "ParamKind", "Age"),
	"validatingadmissionpolicybindings.admissionregistration.k8s.io": of(validatingBindingCells, "PolicyName", "ParamRef", "Age"),
	"mutatingadmissionpolicies.admissionregistration.k8s.io":         of(mutatingPolicyCells, "#Mutations", "ParamKind", "Age"),
	"mutatingadmissionpolicybindings.admissionregistration.k8s.io":   of(mutatingBindingCells, "PolicyName", "ParamRef", "Age"),
}

// unnamed drops the leading name: events are told apart by what they say.
func unnamed(p printer) printer {
	p.unnamed = true
	p.columns = p.columns[1:]
	p.columns[len(p.columns)-1].Format = "name"
	return p
}
