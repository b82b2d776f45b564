package rbac

import (
	rbacv1 "k8s.io/api/rbac/v1"

	"github.com/reevehq/reeve/controlplane/apis/defaults/fill"
)

// SetDefaults_ClusterRoleBinding fills the group of the role.
func SetDefaults_ClusterRoleBinding(b *rbacv1.ClusterRoleBinding) {
	fill.Zero(&b.RoleRef.APIGroup, rbacv1.GroupName)
}

// SetDefaults_RoleBinding fills the group of the role.
func SetDefaults_RoleBinding(b *rbacv1.RoleBinding) {
	fill.Zero(&b.RoleRef.APIGroup, rbacv1.GroupName)
}

// SetDefaults_Subject fills the group of users and groups; service accounts are in the core group.
func SetDefaults_Subject(s *rbacv1.Subject) {
	switch s.Kind {
	case rbacv1.UserKind, rbacv1.GroupKind:
		fill.Zero(&s.APIGroup, rbacv1.GroupName)
	}
}
