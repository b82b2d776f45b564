package authz

import (
	rbacv1 "k8s.io/api/rbac/v1"
	"k8s.io/apiserver/pkg/authentication/serviceaccount"
	"k8s.io/apiserver/pkg/authentication/user"
)

// addUserRoles: the roles meant for people and for everybody.
func (p *Policy) addUserRoles() {
	p.role("cluster-admin", on("*", "*", "*"), onURL("*", "*"))
	p.bind("cluster-admin", "cluster-admin", asGroup(user.SystemPrivilegedGroup))

	p.role("system:discovery", onURL("get", "/livez,/readyz,/healthz,/version,/version/,/openapi,/openapi/*,/api,/api/*,/apis,/apis/*"))
	p.bind("system:discovery", "system:discovery", asGroup(user.AllAuthenticated))

	p.role("system:public-info-viewer", onURL("get", "/livez,/readyz,/healthz,/version,/version/"))
	p.bind("system:public-info-viewer", "system:public-info-viewer",
		asGroup(user.AllAuthenticated), asGroup(user.AllUnauthenticated))

	p.role("system:basic-user",
		on("create", "authorization.k8s.io", "selfsubjectaccessreviews,selfsubjectrulesreviews"),
		on("create", "authentication.k8s.io", "selfsubjectreviews"))
	p.bind("system:basic-user", "system:basic-user", asGroup(user.AllAuthenticated))

	p.role("system:monitoring", onURL("get", "/metrics,/metrics/slis,/livez,/readyz,/healthz,/livez/*,/readyz/*,/healthz/*"))
	p.bind("system:monitoring", "system:monitoring", asGroup(user.MonitoringGroup))

	p.role("system:service-account-issuer-discovery",
		onURL("get", "/.well-known/openid-configuration,/.well-known/openid-configuration/,/openid/v1/jwks,/openid/v1/jwks/"))
	p.bind("system:service-account-issuer-discovery", "system:service-account-issuer-discovery",
		asGroup(serviceaccount.AllServiceAccountsGroup))

	p.role("system:cluster-trust-bundle-discovery", on(read, "certificates.k8s.io", "clustertrustbundles"))
	p.bind("system:cluster-trust-bundle-discovery", "system:cluster-trust-bundle-discovery",
		asGroup(serviceaccount.AllServiceAccountsGroup))

	// view ⊂ edit ⊂ admin, each the sum of what is labelled for it.
	p.aggregate("admin", nil)
	p.aggregate("edit", map[string]string{aggregateLabelPrefix + "admin": "true"})
	p.aggregate("view", map[string]string{aggregateLabelPrefix + "edit": "true"})
	p.role("system:aggregate-to-admin", adminRules()...).Labels = map[string]string{aggregateLabelPrefix + "admin": "true"}
	p.role("system:aggregate-to-edit", editRules()...).Labels = map[string]string{aggregateLabelPrefix + "edit": "true"}
	p.role("system:aggregate-to-view", viewRules()...).Labels = map[string]string{aggregateLabelPrefix + "view": "true"}
}

func adminRules() []rbacv1.PolicyRule {
	return []rbacv1.PolicyRule{
		on("create", "authorization.k8s.io", "localsubjectaccessreviews"),
		on(readWrite, "rbac.authorization.k8s.io", "roles,rolebindings"),
	}
}

// editRules leave Endpoints and EndpointSlices out: who writes those can send a Service's traffic anywhere
// (CVE-2021-25740).
func editRules() []rbacv1.PolicyRule {
	return []rbacv1.PolicyRule{
		on(read, "", "pods/attach,pods/exec,pods/portforward,pods/proxy,secrets,services/proxy"),
		on("impersonate", "", "serviceaccounts"),
		on(write, "", "pods,pods/attach,pods/exec,pods/portforward,pods/proxy"),
		on("create", "", "pods/eviction"),
		on("patch,update", "", "pods/resize,pods/ephemeralcontainers"),
		on(write, "", "configmaps,events,persistentvolumeclaims,replicationcontrollers,replicationcontrollers/scale,secrets,serviceaccounts,services,services/proxy"),
		on("create", "", "serviceaccounts/token"),
		on(write, "apps", "daemonsets,deployments,deployments/rollback,deployments/scale,replicasets,replicasets/scale,statefulsets,statefulsets/scale"),
		on(write, "autoscaling", "horizontalpodautoscalers"),
		on(write, "batch", "cronjobs,jobs"),
		on(write, "extensions", "daemonsets,deployments,deployments/rollback,deployments/scale,ingresses,networkpolicies,replicasets,replicasets/scale,replicationcontrollers/scale"),
		on(write, "policy", "poddisruptionbudgets"),
		on(write, "networking.k8s.io", "ingresses,networkpolicies"),
		on(readWrite, "coordination.k8s.io", "leases"),
		on(write, "resource.k8s.io", "resourceclaims,resourceclaimtemplates"),
	}
}

func viewRules() []rbacv1.PolicyRule {
	return []rbacv1.PolicyRule{
		on(read, "", "configmaps,endpoints,persistentvolumeclaims,persistentvolumeclaims/status,pods,replicationcontrollers,replicationcontrollers/scale,serviceaccounts,services,services/status"),
		on(read, "", "bindings,events,limitranges,namespaces/status,pods/log,pods/status,replicationcontrollers/status,resourcequotas,resourcequotas/status"),
		on(read, "", "namespaces"),
		on(read, "events.k8s.io", "events"),
		on(read, "discovery.k8s.io", "endpointslices"),
		on(read, "apps", "controllerrevisions,daemonsets,daemonsets/status,deployments,deployments/scale,deployments/status,replicasets,replicasets/scale,replicasets/status,statefulsets,statefulsets/scale,statefulsets/status"),
		on(read, "autoscaling", "horizontalpodautoscalers,horizontalpodautoscalers/status"),
		on(read, "batch", "cronjobs,cronjobs/status,jobs,jobs/status"),
		on(read, "extensions", "daemonsets,daemonsets/status,deployments,deployments/scale,deployments/status,ingresses,ingresses/status,networkpolicies,replicasets,replicasets/scale,replicasets/status,replicationcontrollers/scale"),
		on(read, "policy", "poddisruptionbudgets,poddisruptionbudgets/status"),
		on(read, "networking.k8s.io", "ingresses,ingresses/status,networkpolicies"),
		on(read, "resource.k8s.io", "resourceclaims,resourceclaims/status,resourceclaimtemplates"),
	}
}
