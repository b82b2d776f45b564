package admission

import (
	"context"
	"errors"
	"fmt"
	"io"
	"sync"

	admissionv1 "k8s.io/api/admission/v1"
	appsv1 "k8s.io/api/apps/v1"
	batchv1 "k8s.io/api/batch/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apiserver/pkg/admission"
	"k8s.io/apiserver/pkg/audit"
	"k8s.io/apiserver/pkg/warning"
	"k8s.io/client-go/informers"
	"k8s.io/client-go/kubernetes"
	corelisters "k8s.io/client-go/listers/core/v1"
	"k8s.io/component-base/metrics/legacyregistry"
	psaadmission "k8s.io/pod-security-admission/admission"
	psaload "k8s.io/pod-security-admission/admission/api/load"
	psaapi "k8s.io/pod-security-admission/api"
	psametrics "k8s.io/pod-security-admission/metrics"
	"k8s.io/pod-security-admission/policy"
)

// podSecurity enforces the Pod Security Standards that namespaces choose by label.
type podSecurity struct {
	*admission.Handler
	delegate   *psaadmission.Admission
	client     kubernetes.Interface
	namespaces corelisters.NamespaceLister
	pods       corelisters.PodLister
}

var podSecurityRecorder = sync.OnceValue(func() *psametrics.PrometheusRecorder {
	r := psametrics.NewPrometheusRecorder(psaapi.GetAPIVersion())
	r.MustRegister(legacyregistry.MustRegister)
	return r
})

// newPodSecurity reads a PodSecurityConfiguration; without one, namespaces without labels are privileged.
func newPodSecurity(r io.Reader) (admission.Interface, error) {
	config, err := psaload.LoadFromReader(r)
	if err != nil {
		return nil, fmt.Errorf("load configuration of %s: %w", PodSecurityName, err)
	}
	evaluator, err := policy.NewEvaluator(policy.DefaultChecks(), nil)
	if err != nil {
		return nil, fmt.Errorf("build checks of %s: %w", PodSecurityName, err)
	}
	return &podSecurity{
		Handler: admission.NewHandler(admission.Create, admission.Update),
		delegate: &psaadmission.Admission{
			Configuration: config, Evaluator: evaluator, Metrics: podSecurityRecorder(), PodSpecExtractor: psaadmission.DefaultPodSpecExtractor{},
		},
	}, nil
}

// SetExternalKubeClientSet implements initializer.WantsExternalKubeClientSet.
func (p *podSecurity) SetExternalKubeClientSet(c kubernetes.Interface) { p.client = c }

// SetExternalKubeInformerFactory implements initializer.WantsExternalKubeInformerFactory.
func (p *podSecurity) SetExternalKubeInformerFactory(f informers.SharedInformerFactory) {
	n, q := f.Core().V1().Namespaces(), f.Core().V1().Pods()
	p.namespaces, p.pods = n.Lister(), q.Lister()
	namespaces, pods := n.Informer().HasSynced, q.Informer().HasSynced
	p.SetReadyFunc(func() bool { return namespaces() && pods() })
}

// ValidateInitialization implements admission.InitializationValidator. It completes the delegate: client and listers are
// both there now.
func (p *podSecurity) ValidateInitialization() error {
	if err := required(PodSecurityName, map[string]bool{"client": p.client != nil, "listers": p.namespaces != nil}); err != nil {
		return err
	}
	p.delegate.NamespaceGetter = psaadmission.NamespaceGetterFromListerAndClient(p.namespaces, p.client)
	p.delegate.PodLister = psaadmission.PodListerFromInformer(p.pods)
	if err := p.delegate.CompleteConfiguration(); err != nil {
		return fmt.Errorf("complete configuration of %s: %w", PodSecurityName, err)
	}
	return p.delegate.ValidateConfiguration()
}

// securable are the resources that hold pod specs, and namespaces, whose labels choose the level.
var securable = map[schema.GroupResource]bool{
	corev1.Resource("namespaces"): true, pods: true, corev1.Resource("replicationcontrollers"): true, corev1.Resource("podtemplates"): true,
	appsv1.Resource("replicasets"): true, appsv1.Resource("deployments"): true, appsv1.Resource("statefulsets"): true,
	appsv1.Resource("daemonsets"): true, batchv1.Resource("jobs"): true, batchv1.Resource("cronjobs"): true,
}

// Validate implements admission.ValidationInterface.
func (p *podSecurity) Validate(ctx context.Context, a admission.Attributes, _ admission.ObjectInterfaces) error {
	gr := a.GetResource().GroupResource()
	if !securable[gr] {
		return nil
	}
	if !p.WaitForReady() {
		return notReady(a)
	}
	result := p.delegate.Validate(ctx, podSecurityAttributes{a})
	for _, w := range result.Warnings {
		warning.AddWarning(ctx, "", w)
	}
	for key, value := range result.AuditAnnotations {
		audit.AddAuditAnnotation(ctx, "pod-security.kubernetes.io/"+key, value)
	}
	if result.Allowed {
		return nil
	}
	// The library's message names the object already.
	refusal := admission.NewForbidden(a, errors.New("not allowed by "+PodSecurityName)).(*apierrors.StatusError)
	if r := result.Result; r != nil {
		if r.Message != "" {
			refusal.ErrStatus.Message = r.Message
		}
		if r.Reason != "" {
			refusal.ErrStatus.Reason = r.Reason
		}
		if r.Code > 0 {
			refusal.ErrStatus.Code = r.Code
		}
		if r.Details != nil {
			refusal.ErrStatus.Details.RetryAfterSeconds = r.Details.RetryAfterSeconds
			refusal.ErrStatus.Details.Causes = append(refusal.ErrStatus.Details.Causes, r.Details.Causes...)
		}
	}
	return refusal
}

// podSecurityAttributes shows a request to the library; the v1 types are what it wants already.
type podSecurityAttributes struct{ admission.Attributes }

func (a podSecurityAttributes) GetObject() (runtime.Object, error) {
	return a.Attributes.GetObject(), nil
}

func (a podSecurityAttributes) GetOldObject() (runtime.Object, error) {
	return a.Attributes.GetOldObject(), nil
}

func (a podSecurityAttributes) GetOperation() admissionv1.Operation {
	return admissionv1.Operation(a.Attributes.GetOperation())
}

func (a podSecurityAttributes) GetUserName() string {
	return a.GetUserInfo().GetName()
}

var _ psaapi.Attributes = podSecurityAttributes{}
