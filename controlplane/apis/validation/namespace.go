package validation

import (
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	apivalidation "k8s.io/apimachinery/pkg/api/validation"
	"k8s.io/apimachinery/pkg/util/sets"
	"k8s.io/apimachinery/pkg/util/validation"
	"k8s.io/apimachinery/pkg/util/validation/field"
)

func namespaceCreate(n *corev1.Namespace) field.ErrorList {
	r := &report{}
	namespaceFinalizers(r, n)
	return r.list
}

func namespaceFinalizers(r *report, n *corev1.Namespace) {
	p := field.NewPath("spec", "finalizers")
	for i, f := range n.Spec.Finalizers {
		at := p.Index(i)
		r.list = append(r.list, apivalidation.ValidateFinalizerName(string(f), at)...)
	}
}

func namespaceFinalize(n, _ *corev1.Namespace) field.ErrorList { return namespaceCreate(n) }

// namespaceStatus: a namespace ends by deletion, never by its status alone.
func namespaceStatus(n, old *corev1.Namespace) field.ErrorList {
	r := &report{}
	p := field.NewPath("status", "phase")
	switch {
	case old.DeletionTimestamp.IsZero() && n.Status.Phase != corev1.NamespaceActive:
		r.invalid(p, n.Status.Phase, "may only be 'Active' if `deletionTimestamp` is empty")
	case !old.DeletionTimestamp.IsZero() && n.Status.Phase != corev1.NamespaceTerminating:
		r.invalid(p, n.Status.Phase, "may only be 'Terminating' if `deletionTimestamp` is not empty")
	}
	return r.list
}

func endpointsCreate(e *corev1.Endpoints) field.ErrorList {
	r := &report{}
	for i := range e.Subsets {
		endpointSubset(r, field.NewPath("subsets").Index(i), &e.Subsets[i])
	}
	return r.list
}

func endpointsUpdate(e, old *corev1.Endpoints) field.ErrorList {
	// Controllers rewrite metadata of Endpoints whose subsets are older than the rules.
	if sameSubsets(e.Subsets, old.Subsets) {
		return nil
	}
	return endpointsCreate(e)
}

func endpointSubset(r *report, p *field.Path, s *corev1.EndpointSubset) {
	if len(s.Addresses)+len(s.NotReadyAddresses) == 0 {
		r.required(p, "must specify `addresses` or `notReadyAddresses`")
	}
	for name, list := range sorted(map[string][]corev1.EndpointAddress{"addresses": s.Addresses, "notReadyAddresses": s.NotReadyAddresses}) {
		for i := range list {
			a, at := &list[i], p.Child(name).Index(i)
			ip(r, at.Child("ip"), a.IP)
			ordinaryIP(r, at.Child("ip"), a.IP)
			if a.Hostname != "" {
				dnsLabel(r, at.Child("hostname"), a.Hostname)
			}
			if a.NodeName != nil {
				dnsSubdomain(r, at.Child("nodeName"), *a.NodeName)
			}
		}
	}
	for i := range s.Ports {
		port, at := &s.Ports[i], p.Child("ports").Index(i)
		switch {
		case port.Name == "" && len(s.Ports) > 1:
			r.required(at.Child("name"), "")
		case port.Name != "":
			dnsLabel(r, at.Child("name"), port.Name)
		}
		r.each(at.Child("port"), port.Port, validation.IsValidPortNum(int(port.Port)))
		oneOf(r, at.Child("protocol"), port.Protocol, true, corev1.ProtocolTCP, corev1.ProtocolUDP, corev1.ProtocolSCTP)
		if port.AppProtocol != nil {
			r.each(at.Child("appProtocol"), *port.AppProtocol, validation.IsQualifiedName(*port.AppProtocol))
		}
	}
}

// limitTypes are the kinds of object that a LimitRange can bound.
func limitRangeCreate(l *corev1.LimitRange) field.ErrorList {
	r := &report{}
	types := sets.New[corev1.LimitType]()
	for i := range l.Spec.Limits {
		item, at := &l.Spec.Limits[i], field.NewPath("spec", "limits").Index(i)
		if item.Type == "" {
			r.required(at.Child("type"), "")
		} else if messages := validation.IsQualifiedName(string(item.Type)); len(messages) > 0 {
			r.each(at.Child("type"), item.Type, messages)
		}
		if types.Has(item.Type) {
			r.duplicate(at.Child("type"), item.Type)
		}
		types.Insert(item.Type)
		limitItem(r, at, item)
	}
	return r.list
}

func limitItem(r *report, p *field.Path, item *corev1.LimitRangeItem) {
	all := sets.New[corev1.ResourceName]()
	lists := map[string]corev1.ResourceList{"max": item.Max, "min": item.Min, "default": item.Default,
		"defaultRequest": item.DefaultRequest, "maxLimitRequestRatio": item.MaxLimitRequestRatio}
	for name, list := range sorted(lists) {
		for _, n := range sortedNames(list) {
			all.Insert(n)
			r.each(p.Child(name).Key(string(n)), string(n), validation.IsQualifiedName(string(n)))
			if q := list[n]; q.Sign() < 0 {
				r.invalid(p.Child(name).Key(string(n)), q.String(), "must be greater than or equal to 0")
			}
		}
	}
	if item.Type == corev1.LimitTypePod {
		if len(item.Default) > 0 {
			r.forbidden(p.Child("default"), "may not be specified when `type` is 'Pod'")
		}
		if len(item.DefaultRequest) > 0 {
			r.forbidden(p.Child("defaultRequest"), "may not be specified when `type` is 'Pod'")
		}
	}
	if item.Type == corev1.LimitTypePersistentVolumeClaim {
		_, hasMin := item.Min[corev1.ResourceStorage]
		_, hasMax := item.Max[corev1.ResourceStorage]
		if !hasMin && !hasMax {
			r.required(p.Child("limits"), "either minimum or maximum storage value is required, but neither was provided")
		}
	}
	for _, n := range sortedSet(all) {
		key := string(n)
		min, hasMin := item.Min[n]
		max, hasMax := item.Max[n]
		def, hasDef := item.Default[n]
		req, hasReq := item.DefaultRequest[n]
		ratio, hasRatio := item.MaxLimitRequestRatio[n]
		if hasMin && hasMax && min.Cmp(max) > 0 {
			r.invalid(p.Child("min").Key(key), min.String(), "min value "+min.String()+" is greater than max value "+max.String())
		}
		if hasReq && hasMin && min.Cmp(req) > 0 {
			r.invalid(p.Child("defaultRequest").Key(key), req.String(), "min value "+min.String()+" is greater than default request value "+req.String())
		}
		if hasReq && hasMax && req.Cmp(max) > 0 {
			r.invalid(p.Child("defaultRequest").Key(key), req.String(), "default request value "+req.String()+" is greater than max value "+max.String())
		}
		if hasReq && hasDef && req.Cmp(def) > 0 {
			r.invalid(p.Child("defaultRequest").Key(key), req.String(), "default request value "+req.String()+" is greater than default limit value "+def.String())
		}
		if hasDef && hasMin && min.Cmp(def) > 0 {
			r.invalid(p.Child("default").Key(key), def.String(), "min value "+min.String()+" is greater than default value "+def.String())
		}
		if hasDef && hasMax && def.Cmp(max) > 0 {
			r.invalid(p.Child("default").Key(key), def.String(), "default value "+def.String()+" is greater than max value "+max.String())
		}
		if hasRatio && ratio.CmpInt64(1) < 0 {
			r.invalid(p.Child("maxLimitRequestRatio").Key(key), ratio.String(), "ratio "+ratio.String()+" is less than 1")
		}
		if !overcommits(n) && hasReq && hasDef && def.Cmp(req) != 0 {
			r.invalid(p.Child("defaultRequest").Key(key), req.String(), "default value "+def.String()+" must equal to defaultRequest value "+req.String())
		}
	}
}

func sameSubsets(a, b []corev1.EndpointSubset) bool { return equality.Semantic.DeepEqual(a, b) }
