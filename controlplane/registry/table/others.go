package table

import (
	"fmt"
	"strings"
	"time"

	admissionregistrationv1 "k8s.io/api/admissionregistration/v1"
	certificatesv1 "k8s.io/api/certificates/v1"
	coordinationv1 "k8s.io/api/coordination/v1"
	flowcontrolv1 "k8s.io/api/flowcontrol/v1"
	networkingv1 "k8s.io/api/networking/v1"
	nodev1 "k8s.io/api/node/v1"
	policyv1 "k8s.io/api/policy/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	resourcev1 "k8s.io/api/resource/v1"
	schedulingv1 "k8s.io/api/scheduling/v1"
	storagev1 "k8s.io/api/storage/v1"
	"k8s.io/apimachinery/pkg/util/duration"
)

func ingressCells(i *networkingv1.Ingress, now time.Time) []any {
	class := none
	if i.Spec.IngressClassName != nil {
		class = *i.Spec.IngressClassName
	}
	var hosts []string
	for _, r := range i.Spec.Rules {
		if r.Host != "" {
			hosts = append(hosts, r.Host)
		}
	}
	hostText := "*"
	if len(hosts) > 0 {
		hostText = some(hosts)
	}
	var addresses []string
	for _, a := range i.Status.LoadBalancer.Ingress {
		addresses = append(addresses, or(a.IP, a.Hostname))
	}
	ports := "80"
	if len(i.Spec.TLS) > 0 {
		ports = "80, 443"
	}
	return []any{class, hostText, strings.Join(addresses, ","), ports, age(i.CreationTimestamp, now)}
}

func ingressClassCells(c *networkingv1.IngressClass, now time.Time) []any {
	parameters := none
	if p := c.Spec.Parameters; p != nil {
		parameters = p.Kind
		if p.APIGroup != nil {
			parameters += "." + *p.APIGroup
		}
		parameters += "/" + p.Name
	}
	return []any{c.Spec.Controller, parameters, age(c.CreationTimestamp, now)}
}

func networkPolicyCells(p *networkingv1.NetworkPolicy, now time.Time) []any {
	return []any{selectorOf(&p.Spec.PodSelector), age(p.CreationTimestamp, now)}
}

func ipAddressCells(a *networkingv1.IPAddress, now time.Time) []any {
	parent := ""
	if r := a.Spec.ParentRef; r != nil {
		parent = r.Resource
		if r.Group != "" {
			parent += "." + r.Group
		}
		if r.Namespace != "" {
			parent += "/" + r.Namespace
		}
		parent += "/" + r.Name
	}
	return []any{parent, age(a.CreationTimestamp, now)}
}

func serviceCIDRCells(c *networkingv1.ServiceCIDR, now time.Time) []any {
	return []any{strings.Join(c.Spec.CIDRs, ","), age(c.CreationTimestamp, now)}
}

func leaseCells(l *coordinationv1.Lease, now time.Time) []any {
	return []any{deref(l.Spec.HolderIdentity), age(l.CreationTimestamp, now)}
}

func csrCells(c *certificatesv1.CertificateSigningRequest, now time.Time) []any {
	requested := none
	if s := c.Spec.ExpirationSeconds; s != nil {
		requested = duration.HumanDuration(time.Duration(*s) * time.Second)
	}
	var approved, denied, failed bool
	for _, condition := range c.Status.Conditions {
		switch condition.Type {
		case certificatesv1.CertificateApproved:
			approved = true
		case certificatesv1.CertificateDenied:
			denied = true
		case certificatesv1.CertificateFailed:
			failed = true
		}
	}
	status := "Pending"
	if approved {
		status = "Approved"
	} else if denied {
		status = "Denied"
	}
	if failed {
		status += ",Failed"
	}
	if len(c.Status.Certificate) > 0 {
		status += ",Issued"
	}
	return []any{age(c.CreationTimestamp, now), or(c.Spec.SignerName, none), c.Spec.Username, requested, status}
}

func runtimeClassCells(r *nodev1.RuntimeClass, now time.Time) []any {
	return []any{r.Handler, age(r.CreationTimestamp, now)}
}

func pdbCells(p *policyv1.PodDisruptionBudget, now time.Time) []any {
	minimum, maximum := "N/A", "N/A"
	if p.Spec.MinAvailable != nil {
		minimum = p.Spec.MinAvailable.String()
	} else if p.Spec.MaxUnavailable != nil {
		maximum = p.Spec.MaxUnavailable.String()
	}
	return []any{minimum, maximum, int64(p.Status.DisruptionsAllowed), age(p.CreationTimestamp, now)}
}

func subjects(all []rbacv1.Subject) (users, groups, accounts string) {
	var u, g, a []string
	for _, s := range all {
		switch s.Kind {
		case rbacv1.UserKind:
			u = append(u, s.Name)
		case rbacv1.GroupKind:
			g = append(g, s.Name)
		case rbacv1.ServiceAccountKind:
			a = append(a, s.Namespace+"/"+s.Name)
		}
	}
	return strings.Join(u, ", "), strings.Join(g, ", "), strings.Join(a, ", ")
}

func roleBindingCells(b *rbacv1.RoleBinding, now time.Time) []any {
	users, groups, accounts := subjects(b.Subjects)
	return []any{b.RoleRef.Kind + "/" + b.RoleRef.Name, age(b.CreationTimestamp, now), users, groups, accounts}
}

func clusterRoleBindingCells(b *rbacv1.ClusterRoleBinding, now time.Time) []any {
	users, groups, accounts := subjects(b.Subjects)
	return []any{b.RoleRef.Kind + "/" + b.RoleRef.Name, age(b.CreationTimestamp, now), users, groups, accounts}
}

func priorityClassCells(c *schedulingv1.PriorityClass, now time.Time) []any {
	policy := ""
	if c.PreemptionPolicy != nil {
		policy = string(*c.PreemptionPolicy)
	}
	return []any{int64(c.Value), c.GlobalDefault, age(c.CreationTimestamp, now), policy}
}

func flowSchemaCells(f *flowcontrolv1.FlowSchema, now time.Time) []any {
	method := none
	if f.Spec.DistinguisherMethod != nil {
		method = string(f.Spec.DistinguisherMethod.Type)
	}
	missing := "?"
	for _, c := range f.Status.Conditions {
		if c.Type == flowcontrolv1.FlowSchemaConditionDangling {
			missing = string(c.Status)
		}
	}
	return []any{f.Spec.PriorityLevelConfiguration.Name, int64(f.Spec.MatchingPrecedence), method, age(f.CreationTimestamp, now), missing}
}

func priorityLevelCells(p *flowcontrolv1.PriorityLevelConfiguration, now time.Time) []any {
	shares, queues, hand, length := any(none), any(none), any(none), any(none)
	if e := p.Spec.Exempt; e != nil && e.NominalConcurrencyShares != nil {
		shares = int64(*e.NominalConcurrencyShares)
	}
	if l := p.Spec.Limited; l != nil {
		shares = int64(deref(l.NominalConcurrencyShares))
		if q := l.LimitResponse.Queuing; q != nil {
			queues, hand, length = int64(q.Queues), int64(q.HandSize), int64(q.QueueLengthLimit)
		}
	}
	return []any{string(p.Spec.Type), shares, queues, hand, length, age(p.CreationTimestamp, now)}
}

func storageClassCells(s *storagev1.StorageClass, now time.Time) []any {
	return []any{
		s.Provisioner, or(string(deref(s.ReclaimPolicy)), "Delete"), or(string(deref(s.VolumeBindingMode)), "Immediate"),
		deref(s.AllowVolumeExpansion), age(s.CreationTimestamp, now),
	}
}

func volumeAttachmentCells(v *storagev1.VolumeAttachment, now time.Time) []any {
	return []any{v.Spec.Attacher, deref(v.Spec.Source.PersistentVolumeName), v.Spec.NodeName, v.Status.Attached, age(v.CreationTimestamp, now)}
}

func csiNodeCells(n *storagev1.CSINode, now time.Time) []any {
	return []any{int64(len(n.Spec.Drivers)), age(n.CreationTimestamp, now)}
}

func csiDriverCells(d *storagev1.CSIDriver, now time.Time) []any {
	var modes []string
	for _, m := range d.Spec.VolumeLifecycleModes {
		modes = append(modes, string(m))
	}
	audiences := unset
	if len(d.Spec.TokenRequests) > 0 {
		var all []string
		for _, t := range d.Spec.TokenRequests {
			all = append(all, t.Audience)
		}
		audiences = strings.Join(all, ",")
	}
	return []any{
		deref(d.Spec.AttachRequired), deref(d.Spec.PodInfoOnMount), deref(d.Spec.StorageCapacity), audiences,
		deref(d.Spec.RequiresRepublish), joined(modes, none), age(d.CreationTimestamp, now),
	}
}

func csiStorageCapacityCells(c *storagev1.CSIStorageCapacity, _ time.Time) []any {
	capacity := unset
	if c.Capacity != nil {
		capacity = c.Capacity.String()
	}
	return []any{c.StorageClassName, capacity}
}

func volumeAttributesClassCells(v *storagev1.VolumeAttributesClass, now time.Time) []any {
	return []any{v.DriverName, age(v.CreationTimestamp, now)}
}

func mutatingWebhookCells(w *admissionregistrationv1.MutatingWebhookConfiguration, now time.Time) []any {
	return []any{int64(len(w.Webhooks)), age(w.CreationTimestamp, now)}
}

func validatingWebhookCells(w *admissionregistrationv1.ValidatingWebhookConfiguration, now time.Time) []any {
	return []any{int64(len(w.Webhooks)), age(w.CreationTimestamp, now)}
}

func paramKind(k *admissionregistrationv1.ParamKind) string {
	if k == nil {
		return unset
	}
	return k.APIVersion + "/" + k.Kind
}

func paramRef(r *admissionregistrationv1.ParamRef) string {
	switch {
	case r == nil:
		return unset
	case r.Name != "" && r.Namespace != "":
		return r.Namespace + "/" + r.Name
	case r.Name != "":
		return "*/" + r.Name
	default:
		return fmt.Sprintf("%s/*", or(r.Namespace, "*"))
	}
}

func validatingPolicyCells(p *admissionregistrationv1.ValidatingAdmissionPolicy, now time.Time) []any {
	return []any{int64(len(p.Spec.Validations)), paramKind(p.Spec.ParamKind), age(p.CreationTimestamp, now)}
}

func validatingBindingCells(b *admissionregistrationv1.ValidatingAdmissionPolicyBinding, now time.Time) []any {
	return []any{b.Spec.PolicyName, paramRef(b.Spec.ParamRef), age(b.CreationTimestamp, now)}
}

func mutatingPolicyCells(p *admissionregistrationv1.MutatingAdmissionPolicy, now time.Time) []any {
	return []any{int64(len(p.Spec.Mutations)), paramKind(p.Spec.ParamKind), age(p.CreationTimestamp, now)}
}

func mutatingBindingCells(b *admissionregistrationv1.MutatingAdmissionPolicyBinding, now time.Time) []any {
	return []any{b.Spec.PolicyName, paramRef(b.Spec.ParamRef), age(b.CreationTimestamp, now)}
}

func deviceClassCells(d *resourcev1.DeviceClass, now time.Time) []any {
	return []any{age(d.CreationTimestamp, now)}
}

func resourceClaimCells(c *resourcev1.ResourceClaim, now time.Time) []any {
	state := "pending"
	switch {
	case c.DeletionTimestamp != nil:
		state = "deleted"
	case c.Status.Allocation != nil:
		state = "allocated"
	}
	if c.Status.Allocation != nil && len(c.Status.ReservedFor) > 0 {
		state += ",reserved"
	}
	return []any{state, age(c.CreationTimestamp, now)}
}

func resourceClaimTemplateCells(c *resourcev1.ResourceClaimTemplate, now time.Time) []any {
	return []any{age(c.CreationTimestamp, now)}
}

func resourceSliceCells(s *resourcev1.ResourceSlice, now time.Time) []any {
	return []any{deref(s.Spec.NodeName), s.Spec.Driver, s.Spec.Pool.Name, age(s.CreationTimestamp, now)}
}
