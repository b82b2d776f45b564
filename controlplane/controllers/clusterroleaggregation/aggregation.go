package clusterroleaggregation

import (
	"context"
	"encoding/json"
	"fmt"
	"slices"
	"strings"

	rbacv1 "k8s.io/api/rbac/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/kubernetes"
	rbaclisters "k8s.io/client-go/listers/rbac/v1"

	"github.com/reevehq/reeve/controlplane/controllers/loop"
)

// Controller is the ClusterRole aggregation controller.
type Controller struct {
	*loop.Loop
	client kubernetes.Interface
	roles  rbaclisters.ClusterRoleLister
}

// New makes the controller.
func New(env loop.Env) (*Controller, error) {
	inf := env.Informers.Rbac().V1().ClusterRoles()
	c := &Controller{client: env.Client, roles: inf.Lister()}
	c.Loop = loop.New("clusterrole-aggregation-controller", env.Log, 1, c.reconcile)
	c.On(inf.Informer(), loop.Each(func(any) { // any role may be part of any sum
		list, err := c.roles.List(labels.Everything())
		if err != nil {
			return
		}
		for _, r := range list {
			if r.AggregationRule != nil {
				c.Add(r.Name)
			}
		}
	}))
	return c, nil
}

// sum is the union of the rules of the selected roles, in the order of the roles' names.
func sum(role *rbacv1.ClusterRole, all []*rbacv1.ClusterRole) ([]rbacv1.PolicyRule, error) {
	all = slices.Clone(all)
	slices.SortFunc(all, func(a, b *rbacv1.ClusterRole) int { return strings.Compare(a.Name, b.Name) })
	var rules []rbacv1.PolicyRule
	for i := range role.AggregationRule.ClusterRoleSelectors {
		sel, err := metav1.LabelSelectorAsSelector(&role.AggregationRule.ClusterRoleSelectors[i])
		if err != nil {
			return nil, fmt.Errorf("parse aggregationRule of ClusterRole %q: %w", role.Name, err)
		}
		for _, r := range all {
			if r.Name == role.Name || !sel.Matches(labels.Set(r.Labels)) {
				continue
			}
			for _, rule := range r.Rules {
				if !slices.ContainsFunc(rules, func(have rbacv1.PolicyRule) bool { return equality.Semantic.DeepEqual(have, rule) }) {
					rules = append(rules, rule)
				}
			}
		}
	}
	return rules, nil
}

func (c *Controller) reconcile(ctx context.Context, name string) error {
	role, err := c.roles.Get(name)
	if apierrors.IsNotFound(err) || err == nil && role.AggregationRule == nil {
		return nil
	}
	if err != nil {
		return err
	}
	all, err := c.roles.List(labels.Everything())
	if err != nil {
		return err
	}
	rules, err := sum(role, all)
	if err != nil || equality.Semantic.DeepEqual(rules, role.Rules) {
		return err
	}
	if rules == nil {
		rules = []rbacv1.PolicyRule{}
	}
	patch, err := json.Marshal(map[string]any{"metadata": map[string]any{"uid": role.UID}, "rules": rules})
	if err != nil {
		return fmt.Errorf("encode rules of ClusterRole %q: %w", name, err)
	}
	ctx, cancel := context.WithTimeout(ctx, loop.CallTimeout)
	defer cancel()
	if _, err := c.client.RbacV1().ClusterRoles().Patch(ctx, name, types.MergePatchType, patch, metav1.PatchOptions{}); err != nil {
		return fmt.Errorf("write rules of ClusterRole %q: %w", name, err)
	}
	return nil
}
