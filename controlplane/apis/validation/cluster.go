package validation

import (
	"crypto/x509"
	"encoding/pem"
	"fmt"
	"strings"

	certificatesv1 "k8s.io/api/certificates/v1"
	coordinationv1 "k8s.io/api/coordination/v1"
	corev1 "k8s.io/api/core/v1"
	nodev1 "k8s.io/api/node/v1"
	schedulingv1 "k8s.io/api/scheduling/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	"k8s.io/apimachinery/pkg/util/sets"
	"k8s.io/apimachinery/pkg/util/validation/field"
)

func leaseCreate(l *coordinationv1.Lease) field.ErrorList {
	r := &report{}
	p := field.NewPath("spec")
	if d := l.Spec.LeaseDurationSeconds; d != nil && *d <= 0 {
		r.invalid(p.Child("leaseDurationSeconds"), *d, "must be greater than 0")
	}
	if n := l.Spec.LeaseTransitions; n != nil {
		r.nonNegative(p.Child("leaseTransitions"), int64(*n))
	}
	if l.Spec.Strategy != nil && *l.Spec.Strategy == "" {
		r.required(p.Child("strategy"), "must not be empty")
	}
	if l.Spec.PreferredHolder != nil && *l.Spec.PreferredHolder != "" && (l.Spec.Strategy == nil || *l.Spec.Strategy == "") {
		r.forbidden(p.Child("preferredHolder"), "may only be specified when `strategy` is defined")
	}
	return r.list
}

// userClassMax is the highest priority that users can give; above are the system's two classes.
const userClassMax = 1000000000

var systemPriorities = map[string]int32{"system-cluster-critical": 2000000000, "system-node-critical": 2000001000}

func priorityClassCreate(c *schedulingv1.PriorityClass) field.ErrorList {
	r := &report{}
	value, system := systemPriorities[c.Name]
	switch {
	case system:
		if c.Value != value || c.GlobalDefault {
			r.forbidden(field.NewPath("metadata", "name"), "priority class names with 'system-' prefix are reserved for system use only. error: the value or default of "+c.Name+" is not the system's")
		}
	case strings.HasPrefix(c.Name, "system-"):
		r.forbidden(field.NewPath("metadata", "name"), "priority class names with 'system-' prefix are reserved for system use only. error: "+c.Name+" is not a known system priority class")
	case c.Value > userClassMax:
		r.forbidden(field.NewPath("value"), fmt.Sprintf("maximum allowed value of a user defined priority is %v", userClassMax))
	}
	optionalOneOf(r, field.NewPath("preemptionPolicy"), c.PreemptionPolicy, corev1.PreemptLowerPriority, corev1.PreemptNever)
	return r.list
}

// priorityClassUpdate: pods have taken over the number already.
func priorityClassUpdate(c, old *schedulingv1.PriorityClass) field.ErrorList {
	r := &report{}
	if c.Value != old.Value {
		r.forbidden(field.NewPath("value"), "may not be changed in an update.")
	}
	immutable(r, field.NewPath("preemptionPolicy"), c.PreemptionPolicy, old.PreemptionPolicy, func(a, b *corev1.PreemptionPolicy) bool { return equality.Semantic.DeepEqual(a, b) })
	return r.list
}

func runtimeClassCreate(c *nodev1.RuntimeClass) field.ErrorList {
	r := &report{}
	requiredLabel(r, field.NewPath("handler"), c.Handler)
	if c.Overhead != nil {
		at := field.NewPath("overhead", "podFixed")
		checkLimitsAndRequests(r, at, at, c.Overhead.PodFixed, nil, containerResourceName)
	}
	if s := c.Scheduling; s != nil {
		at := field.NewPath("scheduling")
		labelMap(r, at.Child("nodeSelector"), s.NodeSelector)
		tolerations(r, at.Child("tolerations"), s.Tolerations)
		for i := range s.Tolerations {
			for j := range i {
				if equality.Semantic.DeepEqual(s.Tolerations[i], s.Tolerations[j]) {
					r.duplicate(at.Child("tolerations").Index(i), s.Tolerations[i])
					break
				}
			}
		}
	}
	return r.list
}

func runtimeClassUpdate(c, old *nodev1.RuntimeClass) field.ErrorList {
	r := &report{list: runtimeClassCreate(c)}
	immutable(r, field.NewPath("handler"), c.Handler, old.Handler, func(a, b string) bool { return a == b })
	return r.list
}

// minCertificateRequestSeconds: a certificate shorter than ten minutes would be gone before it is installed.
const minCertificateRequestSeconds = 600

var keyUsages = sets.New(certificatesv1.UsageSigning, certificatesv1.UsageDigitalSignature, certificatesv1.UsageContentCommitment,
	certificatesv1.UsageKeyEncipherment, certificatesv1.UsageKeyAgreement, certificatesv1.UsageDataEncipherment, certificatesv1.UsageCertSign,
	certificatesv1.UsageCRLSign, certificatesv1.UsageEncipherOnly, certificatesv1.UsageDecipherOnly, certificatesv1.UsageAny,
	certificatesv1.UsageServerAuth, certificatesv1.UsageClientAuth, certificatesv1.UsageCodeSigning, certificatesv1.UsageEmailProtection,
	certificatesv1.UsageSMIME, certificatesv1.UsageIPsecEndSystem, certificatesv1.UsageIPsecTunnel, certificatesv1.UsageIPsecUser,
	certificatesv1.UsageTimestamping, certificatesv1.UsageOCSPSigning, certificatesv1.UsageMicrosoftSGC, certificatesv1.UsageNetscapeSGC)

func csrCreate(c *certificatesv1.CertificateSigningRequest) field.ErrorList {
	r := &report{}
	p := field.NewPath("spec")
	if err := parseRequest(c.Spec.Request); err != nil {
		r.invalid(p.Child("request"), c.Spec.Request, fmt.Sprintf("%v", err))
	}
	if len(c.Spec.Usages) == 0 {
		r.required(p.Child("usages"), "")
	}
	seen := sets.New[certificatesv1.KeyUsage]()
	for i, u := range c.Spec.Usages {
		at := p.Child("usages").Index(i)
		if !keyUsages.Has(u) {
			r.add(field.NotSupported(at, u, sortedSet(keyUsages)))
		}
		if seen.Has(u) {
			r.duplicate(at, u)
		}
		seen.Insert(u)
	}
	if c.Spec.SignerName == "" {
		r.required(p.Child("signerName"), "")
	} else {
		signerName(r, p.Child("signerName"), c.Spec.SignerName)
	}
	if e := c.Spec.ExpirationSeconds; e != nil && *e < minCertificateRequestSeconds {
		r.invalid(p.Child("expirationSeconds"), *e, "may not specify a duration less than 600 seconds (10 minutes)")
	}
	csrConditions(r, field.NewPath("status", "conditions"), c.Status.Conditions)
	if len(c.Status.Certificate) > 0 {
		certificateChain(r, field.NewPath("status", "certificate"), c.Status.Certificate)
	}
	return r.list
}

func parseRequest(raw []byte) error {
	block, _ := pem.Decode(raw)
	if block == nil || block.Type != "CERTIFICATE REQUEST" {
		return fmt.Errorf("PEM block type must be CERTIFICATE REQUEST")
	}
	request, err := x509.ParseCertificateRequest(block.Bytes)
	if err != nil {
		return err
	}
	return request.CheckSignature()
}

func certificateChain(r *report, p *field.Path, raw []byte) {
	n := 0
	for rest := raw; ; {
		var block *pem.Block
		if block, rest = pem.Decode(rest); block == nil {
			break
		}
		n++
		if block.Type != "CERTIFICATE" {
			r.invalid(p, "<certificate data>", fmt.Sprintf("only CERTIFICATE PEM blocks are allowed, found %q", block.Type))
			return
		}
		if _, err := x509.ParseCertificate(block.Bytes); err != nil {
			r.invalid(p, "<certificate data>", err.Error())
			return
		}
	}
	if n == 0 {
		r.invalid(p, "<certificate data>", "must contain at least one CERTIFICATE PEM block")
	}
}

func csrConditions(r *report, p *field.Path, list []certificatesv1.CertificateSigningRequestCondition) {
	seen := sets.New[certificatesv1.RequestConditionType]()
	for i, c := range list {
		at := p.Index(i)
		if c.Type == "" {
			r.required(at.Child("type"), "")
		}
		switch c.Type {
		case certificatesv1.CertificateApproved, certificatesv1.CertificateDenied, certificatesv1.CertificateFailed:
			if c.Status != corev1.ConditionTrue {
				r.add(field.NotSupported(at.Child("status"), c.Status, []corev1.ConditionStatus{corev1.ConditionTrue}))
			}
		default:
			oneOf(r, at.Child("status"), c.Status, true, corev1.ConditionTrue, corev1.ConditionFalse, corev1.ConditionUnknown)
		}
		if seen.Has(c.Type) {
			r.duplicate(at.Child("type"), c.Type)
		}
		seen.Insert(c.Type)
	}
	if seen.HasAll(certificatesv1.CertificateApproved, certificatesv1.CertificateDenied) {
		r.invalid(p, certificatesv1.CertificateDenied, "Approved and Denied conditions are mutually exclusive")
	}
}

// csrUpdate: neither what was asked nor what was decided changes through the main resource.
func csrUpdate(c, old *certificatesv1.CertificateSigningRequest) field.ErrorList {
	r := &report{list: csrCreate(c)}
	keepConditions(r, c, old, false)
	return r.list
}

func csrApproval(c, old *certificatesv1.CertificateSigningRequest) field.ErrorList {
	r := &report{}
	csrConditions(r, field.NewPath("status", "conditions"), c.Status.Conditions)
	keepConditions(r, c, old, true)
	return r.list
}

func csrStatus(c, old *certificatesv1.CertificateSigningRequest) field.ErrorList {
	r := &report{}
	csrConditions(r, field.NewPath("status", "conditions"), c.Status.Conditions)
	keepConditions(r, c, old, false)
	at := field.NewPath("status", "certificate")
	if len(c.Status.Certificate) > 0 {
		certificateChain(r, at, c.Status.Certificate)
	}
	if len(old.Status.Certificate) > 0 && string(c.Status.Certificate) != string(old.Status.Certificate) {
		r.forbidden(at, "updates may not set certificate content")
	}
	return r.list
}

// keepConditions: a decision is made once, through the approval endpoint only.
func keepConditions(r *report, c, old *certificatesv1.CertificateSigningRequest, approving bool) {
	p := field.NewPath("status", "conditions")
	has := func(list []certificatesv1.CertificateSigningRequestCondition, t certificatesv1.RequestConditionType) bool {
		for i := range list {
			if list[i].Type == t {
				return true
			}
		}
		return false
	}
	for _, t := range []certificatesv1.RequestConditionType{certificatesv1.CertificateApproved, certificatesv1.CertificateDenied, certificatesv1.CertificateFailed} {
		was, is := has(old.Status.Conditions, t), has(c.Status.Conditions, t)
		switch {
		case was && !is:
			r.forbidden(p, fmt.Sprintf("updates may not remove a condition of type %q", t))
		case !was && is && !approving && t != certificatesv1.CertificateFailed:
			r.forbidden(p, fmt.Sprintf("updates may not add a condition of type %q", t))
		}
	}
}
