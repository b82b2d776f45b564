package authz

import (
	rbacv1 "k8s.io/api/rbac/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// controller adds the role system:controller:<name> and binds it to the service account kube-system/<name>.
func (p *Policy) controller(name string, rules ...rbacv1.PolicyRule) {
	p.role(controllerPrefix+name, rules...)
	p.bind(controllerPrefix+name, controllerPrefix+name, asAccount(metav1.NamespaceSystem, name))
}

// addControllerRoles: one role a controller, for those that run under a service account of their own.
func (p *Policy) addControllerRoles() {
	p.addWorkloadControllers()
	p.addNetworkControllers()
	p.addStorageControllers()
	p.addClusterControllers()
}

func (p *Policy) addWorkloadControllers() {
	const podWork = "create,delete,list,patch,watch"
	p.controller("cronjob-controller",
		on("get,list,update,watch", "batch", "cronjobs"), on("create,delete,get,list,patch,update,watch", "batch", "jobs"),
		on("update", "batch", "cronjobs/status,cronjobs/finalizers"), on("delete,list", "", "pods"), events())
	p.controller("daemon-set-controller",
		on(read, "apps,extensions", "daemonsets"), on("update", "apps,extensions", "daemonsets/status,daemonsets/finalizers"),
		on("list,watch", "", "nodes"), on(podWork, "", "pods"), on("create", "", "pods/binding"),
		on("create,delete,get,list,patch,update,watch", "apps", "controllerrevisions"), events())
	p.controller("deployment-controller",
		on("get,list,update,watch", "apps,extensions", "deployments"),
		on("update", "apps,extensions", "deployments/status,deployments/finalizers"),
		on("create,delete,get,list,patch,update,watch", "apps,extensions", "replicasets"),
		on("get,list,update,watch", "", "pods"), events())
	p.controller("replicaset-controller",
		on("get,list,update,watch", "apps,extensions", "replicasets"),
		on("update", "apps,extensions", "replicasets/status,replicasets/finalizers"), on(podWork, "", "pods"), events())
	p.controller("replication-controller",
		on("get,list,update,watch", "", "replicationcontrollers"),
		on("update", "", "replicationcontrollers/status,replicationcontrollers/finalizers"), on(podWork, "", "pods"), events())
	p.controller("statefulset-controller",
		on("list,watch", "", "pods"), on(read, "apps", "statefulsets"),
		on("update", "apps", "statefulsets/status,statefulsets/finalizers"),
		on("create,delete,get,patch,update", "", "pods"),
		on("create,delete,get,list,patch,update,watch", "apps", "controllerrevisions"),
		on("create,delete,get,list,update,watch", "", "persistentvolumeclaims"), events())
	p.controller("job-controller",
		on("get,list,patch,update,watch", "batch", "jobs"), on("update", "batch", "jobs/status,jobs/finalizers"),
		on(podWork, "", "pods"), events())
	p.controller("ttl-after-finished-controller", on("delete,get,list,watch", "batch", "jobs"), events())
	p.controller("disruption-controller",
		on(read, "apps,extensions", "deployments,replicasets"), on(read, "apps", "statefulsets"), on(read, "", "replicationcontrollers"),
		on(read, "policy", "poddisruptionbudgets"), on("update", "policy", "poddisruptionbudgets/status"),
		on("get,list,watch", "", "pods"), on("patch,update", "", "pods/status"), on("get", "*", "*/scale"), events())
	p.controller("horizontal-pod-autoscaler",
		on(read, "autoscaling", "horizontalpodautoscalers"), on("update", "autoscaling", "horizontalpodautoscalers/status"),
		on("get,update", "*", "*/scale"), on("list", "", "pods"),
		on("list", "metrics.k8s.io", "pods"), on("get,list", "custom.metrics.k8s.io,external.metrics.k8s.io", "*"), events())
	p.controller("pod-garbage-collector",
		on("delete,list,watch", "", "pods"), on("get,list", "", "nodes"), on("patch", "", "pods/status"))
	p.controller("taint-eviction-controller",
		on("delete,get,list,watch", "", "pods"), on("patch", "", "pods/status"), on(read, "", "nodes"), events())
	p.controller("device-taint-eviction-controller",
		on("delete,get,list,watch", "", "pods"), on("patch", "", "pods/status"),
		on(read, "resource.k8s.io", "resourceclaims,resourceslices,deviceclasses,devicetaintrules"),
		on("patch,update", "resource.k8s.io", "devicetaintrules/status"), events())
	p.controller("resource-claim-controller",
		on(read, "", "pods"), on("update", "", "pods/finalizers"), on("patch,update", "", "pods/status"),
		on("create,delete,get,list,watch", "resource.k8s.io", "resourceclaims"), on(read, "resource.k8s.io", "resourceclaimtemplates"),
		on("patch,update", "resource.k8s.io", "resourceclaims,resourceclaims/status"), events())
}

func (p *Policy) addNetworkControllers() {
	const slices = "discovery.k8s.io"
	p.controller("endpoint-controller",
		on(read, "", "pods,services"), on("create,delete,get,list,update,watch", "", "endpoints"),
		on("create", "", "endpoints/restricted"), on("update", "", "services/finalizers"), events())
	p.controller("endpointslice-controller",
		on(read, "", "nodes,pods,services"), on("update", "", "services/finalizers"),
		on("create,delete,get,list,update,watch", slices, "endpointslices"), on("create", slices, "endpointslices/restricted"), events())
	p.controller("endpointslicemirroring-controller",
		on(read, "", "endpoints,services"), on("update", "", "endpoints/finalizers,services/finalizers"),
		on("create,delete,get,list,update,watch", slices, "endpointslices"), on("create", slices, "endpointslices/restricted"), events())
	p.controller("service-controller",
		on(read, "", "services"), on("patch,update", "", "services/status"), on("list,watch", "", "nodes"), events())
	p.controller("service-cidrs-controller",
		on("get,list,patch,update,watch", "networking.k8s.io", "servicecidrs"),
		on("patch,update", "networking.k8s.io", "servicecidrs/status,servicecidrs/finalizers"),
		on(read, "networking.k8s.io", "ipaddresses"), events())
	p.controller("route-controller", on("list,watch", "", "nodes"), on("patch", "", "nodes/status"), events())
}

func (p *Policy) addStorageControllers() {
	const storage = "storage.k8s.io"
	p.controller("attachdetach-controller",
		on("list,watch", "", "persistentvolumes,persistentvolumeclaims"), on(read, "", "nodes"), on("patch,update", "", "nodes/status"),
		on("list,watch", "", "pods"), on("create,delete,get,list,watch", storage, "volumeattachments"),
		on(read, storage, "csidrivers,csinodes"), events())
	p.controller("expand-controller",
		on("get,list,patch,update,watch", "", "persistentvolumes"), on("patch,update", "", "persistentvolumeclaims/status"),
		on(read, "", "persistentvolumeclaims"), on("get", "", "endpoints,services,secrets"), on(read, storage, "storageclasses"), events())
	p.controller("ephemeral-volume-controller",
		on(read, "", "pods"), on("update", "", "pods/finalizers"), on("create,get,list,watch", "", "persistentvolumeclaims"), events())
	p.controller("persistent-volume-binder",
		on("create,delete,get,list,update,watch", "", "persistentvolumes"), on("update", "", "persistentvolumes/status"),
		on("get,list,update,watch", "", "persistentvolumeclaims"), on("update", "", "persistentvolumeclaims/status"),
		on("create,delete,get,list,watch", "", "pods"), on(read, storage, "storageclasses"), on("list,watch", "", "nodes"),
		on("create,delete,get", "", "endpoints,services"), on("get,list", "", "secrets"), on("watch", "", "events"), events())
	p.controller("pvc-protection-controller", on("get,list,update,watch", "", "persistentvolumeclaims"), on(read, "", "pods"), events())
	p.controller("pv-protection-controller", on("get,list,update,watch", "", "persistentvolumes"), events())
	p.controller("vac-protection-controller",
		on("get,list,patch,update,watch", storage, "volumeattributesclasses"), on(read, "", "persistentvolumeclaims,persistentvolumes"), events())
	p.controller("selinux-warning-controller",
		on(read, "", "pods,persistentvolumes,persistentvolumeclaims"), on(read, storage, "csidrivers"), events())
}

func (p *Policy) addClusterControllers() {
	p.controller("clusterrole-aggregation-controller",
		// escalate: it may give roles rules that it does not hold itself, which is its task.
		on("escalate,get,list,patch,update,watch", "rbac.authorization.k8s.io", "clusterroles"))
	p.controller("generic-garbage-collector", on("delete,get,list,patch,update,watch", "*", "*"), events())
	p.controller("namespace-controller",
		on("delete,get,list,watch", "", "namespaces"), on("update", "", "namespaces/finalize,namespaces/status"),
		on("delete,deletecollection,get,list", "*", "*"))
	p.controller("node-controller",
		on("delete,get,list,patch,update,watch", "", "nodes"), on("patch,update", "", "nodes/status"),
		on("patch,update", "", "pods/status"), on("delete,get,list,watch", "", "pods"),
		on(read, "coordination.k8s.io", "leases"), on(read, "networking.k8s.io", "servicecidrs"), events())
	p.controller("resourcequota-controller", on("list,watch", "*", "*"), on("update", "", "resourcequotas/status"), events())
	p.controller("service-account-controller", on("create", "", "serviceaccounts"), events())
	p.controller("legacy-service-account-token-cleaner", on("get", "", "configmaps"), on("delete,get,list,patch,watch", "", "secrets"))
	p.controller("root-ca-cert-publisher", on("create,update", "", "configmaps"), events())
	p.controller("kube-apiserver-serving-clustertrustbundle-publisher",
		onNamed("attest", "certificates.k8s.io", "signers", "kubernetes.io/kube-apiserver-serving"),
		on("create,delete,list,update,watch", "certificates.k8s.io", "clustertrustbundles"), events())
	p.controller("ttl-controller", on("list,patch,update,watch", "", "nodes"), events())
	p.controller("certificate-controller",
		on("delete,get,list,watch", "certificates.k8s.io", "certificatesigningrequests"),
		on("update", "certificates.k8s.io", "certificatesigningrequests/approval,certificatesigningrequests/status"),
		onNamed("approve", "certificates.k8s.io", "signers", "kubernetes.io/kube-apiserver-client-kubelet"),
		onNamed("sign", "certificates.k8s.io", "signers",
			"kubernetes.io/kube-apiserver-client,kubernetes.io/kube-apiserver-client-kubelet,kubernetes.io/kubelet-serving,kubernetes.io/legacy-unknown"),
		on("create", "authorization.k8s.io", "subjectaccessreviews"), events())
	p.controller("podcertificaterequestcleaner", on("delete,get,list,watch", "certificates.k8s.io", "podcertificaterequests"))
	p.controller("validatingadmissionpolicy-status-controller",
		on(read, "admissionregistration.k8s.io", "validatingadmissionpolicies"),
		on("get,patch,update", "admissionregistration.k8s.io", "validatingadmissionpolicies/status"), events())
	p.controller("storage-version-migrator-controller",
		on("get,list,patch,update,watch", "*", "*"),
		on("get,list,update,watch", "storagemigration.k8s.io", "storageversionmigrations"),
		on("update", "storagemigration.k8s.io", "storageversionmigrations/status"))
}
