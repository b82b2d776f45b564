package authz

import (
	rbacv1 "k8s.io/api/rbac/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apiserver/pkg/authentication/user"
)

// nodeRules are what any node's agent may do, before the Node authorizer narrows it object by object.
func nodeRules() []rbacv1.PolicyRule {
	return []rbacv1.PolicyRule{
		on("create", "authentication.k8s.io", "tokenreviews"),
		on("create", "authorization.k8s.io", "subjectaccessreviews,localsubjectaccessreviews"),
		on(read, "", "services"),
		on("create,get,list,patch,update,watch", "", "nodes"),
		on("get,patch,update", "", "nodes/status"),
		events(),
		on("create,delete,get,list,watch", "", "pods"),
		on("get,patch,update", "", "pods/status"),
		on("create", "", "pods/eviction"),
		on(read, "", "configmaps,secrets"),
		on("get", "", "persistentvolumeclaims,persistentvolumes"),
		on("get,patch,update", "", "persistentvolumeclaims/status"),
		on("get", "", "endpoints,serviceaccounts"),
		on("create", "", "serviceaccounts/token"),
		on("create,get,list,watch", "certificates.k8s.io", "certificatesigningrequests,podcertificaterequests"),
		on(read, "certificates.k8s.io", "clustertrustbundles"),
		on("create,delete,get,patch,update", "coordination.k8s.io", "leases"),
		on("get", "storage.k8s.io", "volumeattachments"),
		on(read, "storage.k8s.io", "csidrivers"),
		on("create,delete,get,patch,update", "storage.k8s.io", "csinodes"),
		on(read, "node.k8s.io", "runtimeclasses"),
		on("get", "resource.k8s.io", "resourceclaims"),
		on(readWrite, "resource.k8s.io", "resourceslices"),
	}
}

// addComponentRoles: the roles of the system's own programs other than controllers.
func (p *Policy) addComponentRoles() {
	p.role("system:node", nodeRules()...)
	p.bind("system:node", "system:node") // nobody: the Node authorizer serves nodes

	p.role("system:node-problem-detector", on("get", "", "nodes"), on("patch", "", "nodes/status"), events())
	p.role("system:node-proxier",
		on("list,watch", "", "services,endpoints"),
		on(read, "", "nodes"),
		on("list,watch", "discovery.k8s.io", "endpointslices"),
		on("list,watch", "networking.k8s.io", "servicecidrs"),
		events())
	p.bind("system:node-proxier", "system:node-proxier", asUser(user.KubeProxy))

	p.role("system:kubelet-api-admin",
		on(read, "", "nodes"),
		on("proxy", "", "nodes"),
		on("*", "", "nodes/configz,nodes/healthz,nodes/log,nodes/metrics,nodes/pods,nodes/proxy,nodes/stats"))
	p.role("system:node-bootstrapper", on("create,get,list,watch", "certificates.k8s.io", "certificatesigningrequests"))
	p.role("system:auth-delegator",
		on("create", "authentication.k8s.io", "tokenreviews"),
		on("create", "authorization.k8s.io", "subjectaccessreviews"))
	p.role("system:kube-aggregator", on(read, "", "services,endpoints"))
	p.role("system:heapster", on(read, "", "events,namespaces,nodes,pods"), on(read, "extensions", "deployments"))
	p.role("system:kube-dns", on("list,watch", "", "endpoints,services"))
	p.bind("system:kube-dns", "system:kube-dns", asAccount(metav1.NamespaceSystem, "kube-dns"))

	p.addStorageRoles()
	p.addCertificateRoles()
	p.addSchedulerRole()
	p.addControllerManagerRole()
}

func (p *Policy) addStorageRoles() {
	p.role("system:persistent-volume-provisioner",
		on("create,delete,get,list,watch", "", "persistentvolumes"),
		on("get,list,update,watch", "", "persistentvolumeclaims"),
		on(read, "storage.k8s.io", "storageclasses"),
		on("watch", "", "events"), events())
	p.role("system:volume-scheduler",
		on("get,list,patch,update,watch", "", "persistentvolumes,persistentvolumeclaims"),
		on(read, "storage.k8s.io", "storageclasses"))
	p.bind("system:volume-scheduler", "system:volume-scheduler", asUser(user.KubeScheduler))
}

func (p *Policy) addCertificateRoles() {
	const group, prefix = "certificates.k8s.io", "system:certificates.k8s.io:"
	p.role(prefix+"certificatesigningrequests:nodeclient", on("create", group, "certificatesigningrequests/nodeclient"))
	p.role(prefix+"certificatesigningrequests:selfnodeclient", on("create", group, "certificatesigningrequests/selfnodeclient"))
	for role, signer := range map[string]string{
		"kube-apiserver-client-approver":         "kube-apiserver-client",
		"kube-apiserver-client-kubelet-approver": "kube-apiserver-client-kubelet",
		"kubelet-serving-approver":               "kubelet-serving",
		"legacy-unknown-approver":                "legacy-unknown",
	} {
		p.role(prefix+role, onNamed("approve", group, "signers", "kubernetes.io/"+signer))
	}
}

func (p *Policy) addSchedulerRole() {
	p.role("system:kube-scheduler",
		events(),
		on("create", "coordination.k8s.io", "leases"),
		onNamed("get,update", "coordination.k8s.io", "leases", "kube-scheduler"),
		on("create,delete,get,list,patch,update,watch", "coordination.k8s.io", "leasecandidates"),
		on(read, "", "nodes,namespaces,replicationcontrollers,services"),
		on("delete,get,list,watch", "", "pods"),
		on("create", "", "bindings,pods/binding"),
		on("patch,update", "", "pods/status"),
		on(read, "apps,extensions", "replicasets"),
		on(read, "apps", "statefulsets"),
		on(read, "policy", "poddisruptionbudgets"),
		on(read, "", "persistentvolumeclaims,persistentvolumes"),
		on("create", "authentication.k8s.io", "tokenreviews"),
		on("create", "authorization.k8s.io", "subjectaccessreviews"),
		on(read, "storage.k8s.io", "csinodes,csidrivers,csistoragecapacities,volumeattachments"),
		on(read, "resource.k8s.io", "deviceclasses,resourceslices,devicetaintrules"),
		on("get,list,patch,update,watch", "resource.k8s.io", "resourceclaims"),
		on("patch,update", "resource.k8s.io", "resourceclaims/status"),
		on(read, "scheduling.k8s.io", "podgroups,workloads"))
	p.bind("system:kube-scheduler", "system:kube-scheduler", asUser(user.KubeScheduler))
}

func (p *Policy) addControllerManagerRole() {
	p.role("system:kube-controller-manager",
		events(),
		on("create", "coordination.k8s.io", "leases"),
		onNamed("get,update", "coordination.k8s.io", "leases", "kube-controller-manager"),
		on("create,delete,get,list,patch,update,watch", "coordination.k8s.io", "leasecandidates"),
		on("create", "", "secrets,serviceaccounts"),
		on("delete", "", "secrets"),
		on("get", "", "configmaps,namespaces,secrets,serviceaccounts"),
		on("update", "", "secrets,serviceaccounts"),
		on("create", "authentication.k8s.io", "tokenreviews"),
		on("create", "authorization.k8s.io", "subjectaccessreviews"),
		on("list,watch", "*", "*"), // informers of the garbage collector and quota see every resource
		on("create", "", "serviceaccounts/token"))
	p.bind("system:kube-controller-manager", "system:kube-controller-manager", asUser(user.KubeControllerManager))
}

// addNamespacedRoles: roles that reach into kube-system and kube-public only.
func (p *Policy) addNamespacedRoles() {
	const system, public = metav1.NamespaceSystem, metav1.NamespacePublic

	p.roleIn(system, "extension-apiserver-authentication-reader",
		onNamed(read, "", "configmaps", "extension-apiserver-authentication"))
	p.bindIn(system, "system::extension-apiserver-authentication-reader", "extension-apiserver-authentication-reader",
		asUser(user.KubeControllerManager), asUser(user.KubeScheduler))

	for component, account := range map[string]string{
		user.KubeControllerManager: "kube-controller-manager", user.KubeScheduler: "kube-scheduler"} {
		name := "system::leader-locking-" + account
		p.roleIn(system, name,
			on("watch", "", "configmaps"), onNamed("get,update", "", "configmaps", account))
		p.bindIn(system, name, name, asUser(component), asAccount(system, account))
	}

	p.roleIn(system, controllerPrefix+"bootstrap-signer", on(read, "", "secrets"))
	p.bindIn(system, controllerPrefix+"bootstrap-signer", controllerPrefix+"bootstrap-signer", asAccount(system, "bootstrap-signer"))
	p.roleIn(system, controllerPrefix+"cloud-provider", on("create,get,list,watch", "", "configmaps"))
	p.bindIn(system, controllerPrefix+"cloud-provider", controllerPrefix+"cloud-provider", asAccount(system, "cloud-provider"))
	p.roleIn(system, controllerPrefix+"token-cleaner", on("delete,get,list,watch", "", "secrets"), events())
	p.bindIn(system, controllerPrefix+"token-cleaner", controllerPrefix+"token-cleaner", asAccount(system, "token-cleaner"))

	p.roleIn(public, controllerPrefix+"bootstrap-signer",
		on(read, "", "configmaps"), onNamed("update", "", "configmaps", "cluster-info"), events())
	p.bindIn(public, controllerPrefix+"bootstrap-signer", controllerPrefix+"bootstrap-signer", asAccount(system, "bootstrap-signer"))
}

// The certificate by which the API server calls nodes has this group, or this user name where kubeadm made it. Both are
// bound to system:kubelet-api-admin instead of being in system:masters, so that it opens nodes and nothing else.
const (
	KubeletClientGroup = "system:kubelet-api-admins"
	KubeletClientUser  = "kube-apiserver-kubelet-client"
)

// addReeve: what makes reeve's own processes work without anybody being an administrator. What lets nodes join comes
// with the node token, from package bootstrap.
func (p *Policy) addReeve() {
	p.bind("reeve:kubelet-api-admin", "system:kubelet-api-admin", asGroup(KubeletClientGroup), asUser(KubeletClientUser))

	// The proxy, the DNS server and the routed network live in the agent's process and use its credential.
	p.bind("reeve:node-proxier", "system:node-proxier", asGroup(user.NodesGroup))
	p.role("reeve:node-dns",
		on("list,watch", "", "namespaces,services,endpoints"),
		on("list,watch", "discovery.k8s.io", "endpointslices"))
	p.bind("reeve:node-dns", "reeve:node-dns", asGroup(user.NodesGroup))

	// CoreDNS run as a pod, as kubeadm names it.
	p.role("system:coredns",
		on("list,watch", "", "endpoints,services,pods,namespaces"),
		on("list,watch", "discovery.k8s.io", "endpointslices"))
	p.bind("system:coredns", "system:coredns", asAccount(metav1.NamespaceSystem, "coredns"))
}
