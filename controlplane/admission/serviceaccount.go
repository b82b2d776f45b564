package admission

import (
	"context"
	"fmt"
	"strconv"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/sets"
	"k8s.io/apiserver/pkg/admission"
	"k8s.io/apiserver/pkg/storage/names"
	"k8s.io/client-go/informers"
	"k8s.io/client-go/kubernetes"
	corelisters "k8s.io/client-go/listers/core/v1"
)

const (
	// defaultServiceAccount is what a pod that names none runs as.
	defaultServiceAccount = "default"
	// tokenMountPath is where clients in pods look for their credentials.
	tokenMountPath = "/var/run/secrets/kubernetes.io/serviceaccount"
	// tokenVolumePrefix begins the name of the volume that is added.
	tokenVolumePrefix = "kube-api-access-"
	// tokenSeconds is one hour and a few seconds more: the odd number marks tokens that were asked for by this plugin,
	// which the API server may make live longer while clients do not reload.
	tokenSeconds int64 = 3607
	// enforceMountable on an account says that its pods may use only the Secrets listed in it.
	enforceMountable = "kubernetes.io/enforce-mountable-secrets"
	// defaultAccountAttempts and defaultAccountRetry wait up to 1.4 s for the controller that makes default accounts.
	defaultAccountAttempts = 10
	defaultAccountRetry    = 150 * time.Millisecond
	// rootCAConfigMap holds the CA of the API server in every namespace.
	rootCAConfigMap = "kube-root-ca.crt"
)

// serviceAccount gives each pod an account that exists, its pull secrets, and a volume with a token.
type serviceAccount struct {
	*admission.Handler
	client   kubernetes.Interface
	accounts corelisters.ServiceAccountLister
	name     func(prefix string) string
	retry    time.Duration
}

func newServiceAccount() admission.Interface {
	return &serviceAccount{
		Handler: admission.NewHandler(admission.Create, admission.Update),
		name:    names.SimpleNameGenerator.GenerateName,
		retry:   defaultAccountRetry,
	}
}

// SetExternalKubeClientSet implements initializer.WantsExternalKubeClientSet.
func (p *serviceAccount) SetExternalKubeClientSet(c kubernetes.Interface) { p.client = c }

// SetExternalKubeInformerFactory implements initializer.WantsExternalKubeInformerFactory.
func (p *serviceAccount) SetExternalKubeInformerFactory(f informers.SharedInformerFactory) {
	i := f.Core().V1().ServiceAccounts()
	p.accounts = i.Lister()
	p.SetReadyFunc(i.Informer().HasSynced)
}

// ValidateInitialization implements admission.InitializationValidator.
func (p *serviceAccount) ValidateInitialization() error {
	return required(ServiceAccountName, map[string]bool{"client": p.client != nil, "service account lister": p.accounts != nil})
}

// Admit implements admission.MutationInterface.
func (p *serviceAccount) Admit(ctx context.Context, a admission.Attributes, o admission.ObjectInterfaces) error {
	if !is(a, pods) || a.GetOperation() != admission.Create {
		return nil
	}
	pod, err := objectOf[*corev1.Pod](a)
	if err != nil {
		return err
	}
	if isMirror(pod) {
		// A mirror pod is the picture of what runs on a node already; nothing may be added to it.
		return p.Validate(ctx, a, o)
	}
	if pod.Spec.ServiceAccountName == "" {
		pod.Spec.ServiceAccountName = defaultServiceAccount
	}
	pod.Spec.DeprecatedServiceAccount = pod.Spec.ServiceAccountName
	account, err := p.account(ctx, a, pod)
	if err != nil {
		return err
	}
	if automounts(account, pod) {
		p.mountToken(pod)
	}
	if len(pod.Spec.ImagePullSecrets) == 0 {
		pod.Spec.ImagePullSecrets = append([]corev1.LocalObjectReference(nil), account.ImagePullSecrets...)
	}
	return p.Validate(ctx, a, o)
}

// Validate implements admission.ValidationInterface.
func (p *serviceAccount) Validate(ctx context.Context, a admission.Attributes, _ admission.ObjectInterfaces) error {
	if a.GetResource().GroupResource() != pods {
		return nil
	}
	ephemeral := a.GetSubresource() == "ephemeralcontainers" && a.GetOperation() == admission.Update
	if !ephemeral && (a.GetSubresource() != "" || a.GetOperation() != admission.Create) {
		return nil
	}
	pod, err := objectOf[*corev1.Pod](a)
	if err != nil {
		return err
	}
	if isMirror(pod) {
		return validateMirror(a, pod)
	}
	account, err := p.account(ctx, a, pod)
	if err != nil {
		return err
	}
	if enforce, _ := strconv.ParseBool(account.Annotations[enforceMountable]); !enforce {
		return nil
	}
	return onlyMountableSecrets(a, account, pod, ephemeral)
}

func validateMirror(a admission.Attributes, pod *corev1.Pod) error {
	if pod.Spec.ServiceAccountName != "" {
		return forbid(a, "a mirror pod may not reference service accounts")
	}
	refs := referencesOf(pod)
	if refs.secrets.Len() > 0 {
		return forbid(a, "a mirror pod may not reference secrets")
	}
	for _, v := range pod.Spec.Volumes {
		if v.Projected == nil {
			continue
		}
		for _, s := range v.Projected.Sources {
			if s.ServiceAccountToken != nil {
				return forbid(a, "a mirror pod may not use ServiceAccountToken volume projections")
			}
		}
	}
	return nil
}

// account finds the pod's service account. The lister may lag behind a client that makes account and pod together, so
// that a miss is asked of the server; the default account, which a controller makes for every namespace, is asked for
// several times, since namespace and pod are often made together too.
func (p *serviceAccount) account(ctx context.Context, a admission.Attributes, pod *corev1.Pod) (*corev1.ServiceAccount, error) {
	if !p.WaitForReady() {
		return nil, notReady(a)
	}
	namespace, name := a.GetNamespace(), pod.Spec.ServiceAccountName
	account, err := p.accounts.ServiceAccounts(namespace).Get(name)
	attempts := 1
	if name == defaultServiceAccount {
		attempts = defaultAccountAttempts
	}
	for i := 0; apierrors.IsNotFound(err) && i < attempts; i++ {
		if i > 0 {
			select {
			case <-ctx.Done():
				return nil, admission.NewForbidden(a, fmt.Errorf("error looking up service account %s/%s: %w", namespace, name, ctx.Err()))
			case <-time.After(p.retry):
			}
		}
		account, err = p.client.CoreV1().ServiceAccounts(namespace).Get(ctx, name, metav1.GetOptions{})
	}
	if err != nil {
		return nil, admission.NewForbidden(a, fmt.Errorf("error looking up service account %s/%s: %w", namespace, name, err))
	}
	return account, nil
}

func automounts(account *corev1.ServiceAccount, pod *corev1.Pod) bool {
	if want := pod.Spec.AutomountServiceAccountToken; want != nil {
		return *want
	}
	if want := account.AutomountServiceAccountToken; want != nil {
		return *want
	}
	return true
}

// mountToken mounts the token volume into every container that has nothing of its own at the path, and adds the volume
// where a container needs it. A volume of ours that the pod has already (a pod copied from a live one) is used again.
func (p *serviceAccount) mountToken(pod *corev1.Pod) {
	volume, exists := "", false
	for _, v := range pod.Spec.Volumes {
		if strings.HasPrefix(v.Name, tokenVolumePrefix) {
			volume, exists = v.Name, true
			break
		}
	}
	if !exists {
		volume = p.name(tokenVolumePrefix)
	}
	needed := false
	for _, group := range [][]corev1.Container{pod.Spec.InitContainers, pod.Spec.Containers} {
		for i := range group {
			if mountsAt(group[i].VolumeMounts, tokenMountPath) {
				continue
			}
			group[i].VolumeMounts = append(group[i].VolumeMounts, corev1.VolumeMount{Name: volume, ReadOnly: true, MountPath: tokenMountPath})
			needed = true
		}
	}
	if needed && !exists {
		pod.Spec.Volumes = append(pod.Spec.Volumes, tokenVolume(volume))
	}
}

func mountsAt(mounts []corev1.VolumeMount, path string) bool {
	for _, m := range mounts {
		if m.MountPath == path {
			return true
		}
	}
	return false
}

func tokenVolume(name string) corev1.Volume {
	seconds, mode := tokenSeconds, corev1.ProjectedVolumeSourceDefaultMode
	return corev1.Volume{Name: name, VolumeSource: corev1.VolumeSource{Projected: &corev1.ProjectedVolumeSource{
		DefaultMode: &mode,
		Sources: []corev1.VolumeProjection{
			{ServiceAccountToken: &corev1.ServiceAccountTokenProjection{Path: "token", ExpirationSeconds: &seconds}},
			{ConfigMap: &corev1.ConfigMapProjection{
				LocalObjectReference: corev1.LocalObjectReference{Name: rootCAConfigMap},
				Items:                []corev1.KeyToPath{{Key: "ca.crt", Path: "ca.crt"}},
			}},
			{DownwardAPI: &corev1.DownwardAPIProjection{Items: []corev1.DownwardAPIVolumeFile{{
				Path: "namespace", FieldRef: &corev1.ObjectFieldSelector{APIVersion: "v1", FieldPath: "metadata.namespace"},
			}}}},
		},
	}}}
}

// onlyMountableSecrets refuses Secrets that the account does not list, for accounts that ask for it.
func onlyMountableSecrets(a admission.Attributes, account *corev1.ServiceAccount, pod *corev1.Pod, ephemeralOnly bool) error {
	mountable, pullable := sets.New[string](), sets.New[string]()
	for _, s := range account.Secrets {
		mountable.Insert(s.Name)
	}
	for _, s := range account.ImagePullSecrets {
		pullable.Insert(s.Name)
	}
	used := sets.New[string]()
	if ephemeralOnly {
		for i := range pod.Spec.EphemeralContainers {
			used = used.Union(secretsOfEnv(pod.Spec.EphemeralContainers[i].Env, pod.Spec.EphemeralContainers[i].EnvFrom))
		}
	} else {
		used = volumeAndEnvSecrets(pod)
		for _, s := range pod.Spec.ImagePullSecrets {
			if !pullable.Has(s.Name) {
				return forbid(a, "imagePullSecrets references secret %q which is not in the service account's imagePullSecrets: service account %s enforces its secrets", s.Name, account.Name)
			}
		}
	}
	for _, name := range sets.List(used) {
		if !mountable.Has(name) {
			return forbid(a, "secret %q is not listed in service account %s, which enforces its secrets", name, account.Name)
		}
	}
	return nil
}
