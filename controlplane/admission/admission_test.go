package admission

import (
	"context"
	"io"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/meta"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apiserver/pkg/admission"
	"k8s.io/apiserver/pkg/authentication/user"
	"k8s.io/apiserver/pkg/authorization/authorizer"
	"k8s.io/client-go/informers"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/kubernetes/fake"
	"k8s.io/client-go/kubernetes/scheme"
	"sigs.k8s.io/yaml"
)

// start gives a plugin what the API server would, with a cluster that holds objects, and waits for its listers.
func start(t *testing.T, plugin admission.Interface, authz authorizer.Authorizer, objects ...runtime.Object) {
	t.Helper()
	client := fake.NewClientset(objects...)
	factory := informers.NewSharedInformerFactory(client, 0)
	if p, ok := plugin.(interface{ SetExternalKubeClientSet(kubernetes.Interface) }); ok {
		p.SetExternalKubeClientSet(client)
	}
	if p, ok := plugin.(interface {
		SetExternalKubeInformerFactory(informers.SharedInformerFactory)
	}); ok {
		p.SetExternalKubeInformerFactory(factory)
	}
	if p, ok := plugin.(interface{ SetAuthorizer(authorizer.Authorizer) }); ok {
		p.SetAuthorizer(authz)
	}
	if p, ok := plugin.(admission.InitializationValidator); ok {
		if err := p.ValidateInitialization(); err != nil {
			t.Fatal(err)
		}
	}
	ctx, cancel := context.WithCancel(context.Background())
	factory.Start(ctx.Done())
	factory.WaitForCacheSync(ctx.Done())
	t.Cleanup(func() { cancel(); factory.Shutdown() })
}

// request is an admission request in few words.
type request struct {
	op       admission.Operation
	resource schema.GroupVersionResource
	sub      string
	obj, old runtime.Object
	name     string
	user     user.Info
}

// run sends the request through the plugin's mutating and then its validating half.
func run(t *testing.T, plugin admission.Interface, r request) error {
	t.Helper()
	if !plugin.Handles(r.op) {
		return nil
	}
	name, namespace := r.name, ""
	for _, o := range []runtime.Object{r.obj, r.old} {
		if m, err := meta.Accessor(o); err == nil && o != nil {
			namespace = m.GetNamespace()
			if name == "" && r.op != admission.Create {
				name = m.GetName()
			}
			break
		}
	}
	who := r.user
	if who == nil {
		who = &user.DefaultInfo{Name: "someone"}
	}
	a := admission.NewAttributesRecord(r.obj, r.old, schema.GroupVersionKind{}, namespace, name, r.resource, r.sub, r.op, nil, false, who)
	ctx := t.Context()
	if p, ok := plugin.(admission.MutationInterface); ok {
		if err := p.Admit(ctx, a, nil); err != nil {
			return err
		}
	}
	if p, ok := plugin.(admission.ValidationInterface); ok {
		return p.Validate(ctx, a, nil)
	}
	return nil
}

// wantErr compares an error with the part of its text that a user must see; "" means no error.
func wantErr(t *testing.T, err error, part string) {
	t.Helper()
	switch {
	case err == nil && part != "":
		t.Errorf("admitted, want a refusal with %q", part)
	case err != nil && part == "":
		t.Errorf("refused: %v", err)
	case err != nil && !strings.Contains(err.Error(), part):
		t.Errorf("refused with %q, want %q", err, part)
	}
}

func parse[T runtime.Object](t *testing.T, manifest string) T {
	t.Helper()
	raw, err := yaml.YAMLToJSON([]byte(manifest))
	if err != nil {
		t.Fatal(err)
	}
	obj, _, err := scheme.Codecs.UniversalDeserializer().Decode(raw, nil, nil)
	if err != nil {
		t.Fatalf("%v in %s", err, manifest)
	}
	return obj.(T)
}

var (
	podResource  = corev1.SchemeGroupVersion.WithResource("pods")
	nodeResource = corev1.SchemeGroupVersion.WithResource("nodes")
)

func nodeUser(name string) user.Info {
	return &user.DefaultInfo{Name: "system:node:" + name, Groups: []string{user.NodesGroup}}
}

// allow answers each question with what its function says of it.
type allow func(authorizer.Attributes) bool

func (f allow) Authorize(_ context.Context, a authorizer.Attributes) (authorizer.Decision, string, error) {
	if f != nil && f(a) {
		return authorizer.DecisionAllow, "", nil
	}
	return authorizer.DecisionNoOpinion, "", nil
}

func TestOrderIsComplete(t *testing.T) {
	o := NewOptions()
	if errs := o.Validate(); len(errs) > 0 {
		t.Fatal(errs)
	}
	ordered := map[string]bool{}
	for _, name := range Order() {
		if ordered[name] {
			t.Errorf("%s is ordered twice", name)
		}
		ordered[name] = true
	}
	for _, name := range o.Plugins.Registered() {
		if !ordered[name] {
			t.Errorf("%s is registered but has no place in the order", name)
		}
	}
	for name := range DefaultOff() {
		if !ordered[name] {
			t.Errorf("%s is off by default but not registered", name)
		}
	}
}

func TestMissingDependenciesAreNamed(t *testing.T) {
	plugins := NewOptions().Plugins
	for _, name := range []string{ServiceAccountName, NodeRestrictionName, PriorityName, LimitRangerName, RuntimeClassName, PodSecurityName,
		DefaultStorageClassName, PersistentVolumeClaimResizeName, DefaultIngressClassName, CertificateApprovalName, CertificateSigningName, PodTopologyLabelsName} {
		_, err := plugins.NewFromPlugins([]string{name}, noConfig{}, admission.PluginInitializers{}, nil)
		if err == nil || !strings.Contains(err.Error(), "missing its") || !strings.Contains(err.Error(), name) {
			t.Errorf("%s without dependencies: %v", name, err)
		}
	}
}

type noConfig struct{}

func (noConfig) ConfigFor(string) (io.Reader, error) { return nil, nil }

func TestEvictionOfWrongType(t *testing.T) {
	p := newNodeRestriction()
	start(t, p, allow(nil))
	err := run(t, p, request{op: admission.Create, resource: podResource, sub: "eviction", obj: &corev1.Pod{}, user: nodeUser("a")})
	wantErr(t, err, "marked with kind *v1.Eviction")
}

func str(s string) *string { return &s }
