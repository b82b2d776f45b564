package authz

import (
	"strings"

	rbacv1 "k8s.io/api/rbac/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

const (
	bootstrapLabel       = "kubernetes.io/bootstrapping"
	bootstrapLabelValue  = "rbac-defaults"
	aggregateLabelPrefix = "rbac.authorization.k8s.io/aggregate-to-"
	controllerPrefix     = "system:controller:"
)

// Policy is the set of roles and bindings that a cluster starts with.
type Policy struct {
	ClusterRoles        []rbacv1.ClusterRole
	ClusterRoleBindings []rbacv1.ClusterRoleBinding
	Roles               []rbacv1.Role
	RoleBindings        []rbacv1.RoleBinding
}

// BootstrapPolicy returns upstream's default policy, by its names, and reeve's few additions, named reeve:…. It is built
// anew at each call, so that it costs no memory once it has been written.
func BootstrapPolicy() Policy {
	p := Policy{}
	p.addUserRoles()
	p.addComponentRoles()
	p.addControllerRoles()
	p.addNamespacedRoles()
	p.addReeve()
	for i := range p.ClusterRoles {
		mark(&p.ClusterRoles[i].ObjectMeta)
	}
	for i := range p.ClusterRoleBindings {
		mark(&p.ClusterRoleBindings[i].ObjectMeta)
	}
	for i := range p.Roles {
		mark(&p.Roles[i].ObjectMeta)
	}
	for i := range p.RoleBindings {
		mark(&p.RoleBindings[i].ObjectMeta)
	}
	return p
}

func mark(m *metav1.ObjectMeta) {
	if m.Labels == nil {
		m.Labels = map[string]string{}
	}
	m.Labels[bootstrapLabel] = bootstrapLabelValue
	m.Annotations = map[string]string{rbacv1.AutoUpdateAnnotationKey: "true"}
}

// Verb sets that come again and again.
const (
	read      = "get,list,watch"
	readWrite = "create,delete,deletecollection,get,list,patch,update,watch"
	write     = "create,delete,deletecollection,patch,update"
)

// on is a rule for resources; each argument is a comma-separated list, group "" is the core group.
func on(verbs, groups, resources string) rbacv1.PolicyRule {
	return rbacv1.PolicyRule{
		Verbs: strings.Split(verbs, ","), APIGroups: strings.Split(groups, ","), Resources: strings.Split(resources, ",")}
}

func onNamed(verbs, groups, resources, names string) rbacv1.PolicyRule {
	r := on(verbs, groups, resources)
	r.ResourceNames = strings.Split(names, ",")
	return r
}

func onURL(verbs, urls string) rbacv1.PolicyRule {
	return rbacv1.PolicyRule{Verbs: strings.Split(verbs, ","), NonResourceURLs: strings.Split(urls, ",")}
}

// events is what whoever reports Events may do; both API groups reach the same objects.
func events() rbacv1.PolicyRule { return on("create,patch,update", ",events.k8s.io", "events") }

func (p *Policy) role(name string, rules ...rbacv1.PolicyRule) *rbacv1.ClusterRole {
	p.ClusterRoles = append(p.ClusterRoles, rbacv1.ClusterRole{ObjectMeta: metav1.ObjectMeta{Name: name}, Rules: rules})
	return &p.ClusterRoles[len(p.ClusterRoles)-1]
}

func (p *Policy) bind(name, role string, subjects ...rbacv1.Subject) {
	p.ClusterRoleBindings = append(p.ClusterRoleBindings, rbacv1.ClusterRoleBinding{
		ObjectMeta: metav1.ObjectMeta{Name: name},
		RoleRef:    rbacv1.RoleRef{APIGroup: rbacv1.GroupName, Kind: "ClusterRole", Name: role},
		Subjects:   subjects,
	})
}

func (p *Policy) roleIn(namespace, name string, rules ...rbacv1.PolicyRule) {
	p.Roles = append(p.Roles, rbacv1.Role{ObjectMeta: metav1.ObjectMeta{Namespace: namespace, Name: name}, Rules: rules})
}

func (p *Policy) bindIn(namespace, name, role string, subjects ...rbacv1.Subject) {
	p.RoleBindings = append(p.RoleBindings, rbacv1.RoleBinding{
		ObjectMeta: metav1.ObjectMeta{Namespace: namespace, Name: name},
		RoleRef:    rbacv1.RoleRef{APIGroup: rbacv1.GroupName, Kind: "Role", Name: role},
		Subjects:   subjects,
	})
}

func asUser(name string) rbacv1.Subject {
	return rbacv1.Subject{APIGroup: rbacv1.GroupName, Kind: rbacv1.UserKind, Name: name}
}

func asGroup(name string) rbacv1.Subject {
	return rbacv1.Subject{APIGroup: rbacv1.GroupName, Kind: rbacv1.GroupKind, Name: name}
}

func asAccount(namespace, name string) rbacv1.Subject {
	return rbacv1.Subject{Kind: rbacv1.ServiceAccountKind, Namespace: namespace, Name: name}
}

// aggregate makes a role that is the sum of the roles labelled for it.
func (p *Policy) aggregate(name string, labels map[string]string) {
	r := p.role(name)
	r.Labels = labels
	r.AggregationRule = &rbacv1.AggregationRule{ClusterRoleSelectors: []metav1.LabelSelector{
		{MatchLabels: map[string]string{aggregateLabelPrefix + name: "true"}}}}
}
