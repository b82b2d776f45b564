package scheme

import (
	"fmt"

	admissionregistrationv1 "k8s.io/api/admissionregistration/v1"
	appsv1 "k8s.io/api/apps/v1"
	authenticationv1 "k8s.io/api/authentication/v1"
	authorizationv1 "k8s.io/api/authorization/v1"
	autoscalingv1 "k8s.io/api/autoscaling/v1"
	autoscalingv2 "k8s.io/api/autoscaling/v2"
	batchv1 "k8s.io/api/batch/v1"
	certificatesv1 "k8s.io/api/certificates/v1"
	coordinationv1 "k8s.io/api/coordination/v1"
	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	eventsv1 "k8s.io/api/events/v1"
	flowcontrolv1 "k8s.io/api/flowcontrol/v1"
	networkingv1 "k8s.io/api/networking/v1"
	nodev1 "k8s.io/api/node/v1"
	policyv1 "k8s.io/api/policy/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	resourcev1 "k8s.io/api/resource/v1"
	schedulingv1 "k8s.io/api/scheduling/v1"
	storagev1 "k8s.io/api/storage/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/runtime/serializer"
	utilruntime "k8s.io/apimachinery/pkg/util/runtime"
)

var (
	// Scheme knows every kind that the API server serves by itself (custom resources, CustomResourceDefinition and
	// APIService have schemes of their own in their libraries). It is complete after package initialisation and must
	// not be changed.
	Scheme = runtime.NewScheme()
	// Codecs encode and decode Scheme's kinds as JSON, YAML and protobuf.
	Codecs = serializer.NewCodecFactory(Scheme)
	// ParameterCodec decodes query strings into Scheme's *Options kinds.
	ParameterCodec = runtime.NewParameterCodec(Scheme)
)

func init() {
	utilruntime.Must(AddToScheme(Scheme))
}

// groups lists every served group version, preferred version first within a group. hub says whether the version's Go
// types are also the group's hub types.
var groups = []struct {
	gv  schema.GroupVersion
	add func(*runtime.Scheme) error
	hub bool
}{
	{corev1.SchemeGroupVersion, corev1.AddToScheme, true},
	{admissionregistrationv1.SchemeGroupVersion, admissionregistrationv1.AddToScheme, true},
	{appsv1.SchemeGroupVersion, appsv1.AddToScheme, true},
	{authenticationv1.SchemeGroupVersion, authenticationv1.AddToScheme, true},
	{authorizationv1.SchemeGroupVersion, authorizationv1.AddToScheme, true},
	{autoscalingv2.SchemeGroupVersion, autoscalingv2.AddToScheme, true},
	{autoscalingv1.SchemeGroupVersion, autoscalingv1.AddToScheme, false},
	{batchv1.SchemeGroupVersion, batchv1.AddToScheme, true},
	{certificatesv1.SchemeGroupVersion, certificatesv1.AddToScheme, true},
	{coordinationv1.SchemeGroupVersion, coordinationv1.AddToScheme, true},
	{discoveryv1.SchemeGroupVersion, discoveryv1.AddToScheme, true},
	{eventsv1.SchemeGroupVersion, eventsv1.AddToScheme, false},
	{flowcontrolv1.SchemeGroupVersion, flowcontrolv1.AddToScheme, true},
	{networkingv1.SchemeGroupVersion, networkingv1.AddToScheme, true},
	{nodev1.SchemeGroupVersion, nodev1.AddToScheme, true},
	{policyv1.SchemeGroupVersion, policyv1.AddToScheme, true},
	{rbacv1.SchemeGroupVersion, rbacv1.AddToScheme, true},
	{resourcev1.SchemeGroupVersion, resourcev1.AddToScheme, true},
	{schedulingv1.SchemeGroupVersion, schedulingv1.AddToScheme, true},
	{storagev1.SchemeGroupVersion, storagev1.AddToScheme, true},
}

// AddToScheme registers every served kind, its hub, conversions, defaults and selectable field labels.
func AddToScheme(s *runtime.Scheme) error {
	versions := map[string][]schema.GroupVersion{}
	var order []string
	for _, g := range groups {
		if err := g.add(s); err != nil {
			return fmt.Errorf("register %s: %w", g.gv, err)
		}
		if _, seen := versions[g.gv.Group]; !seen {
			order = append(order, g.gv.Group)
		}
		versions[g.gv.Group] = append(versions[g.gv.Group], g.gv)
		if g.hub {
			addHub(s, g.gv)
		}
	}

	// Scale is a kind of autoscaling/v1 only and its own hub.
	s.AddKnownTypes(internal(autoscalingv1.GroupName), &autoscalingv1.Scale{})
	// Events live in the core group; events.k8s.io shows the same objects in another shape.
	s.AddKnownTypes(internal(eventsv1.GroupName), &corev1.Event{}, &corev1.EventList{})

	for _, group := range order {
		if err := s.SetVersionPriority(versions[group]...); err != nil {
			return fmt.Errorf("set version priority of group %q: %w", group, err)
		}
	}
	for _, add := range []func(*runtime.Scheme) error{
		addEventConversions, addAutoscalingConversions, addOptionsConversions, addFieldLabels, addDefaults,
	} {
		if err := add(s); err != nil {
			return err
		}
	}
	return nil
}

func internal(group string) schema.GroupVersion {
	return schema.GroupVersion{Group: group, Version: runtime.APIVersionInternal}
}

// addHub registers the external types of gv as the hub types of its group too. The machinery's own kinds (watch
// events, list and delete options) are left to what metav1.AddToGroupVersion registers.
func addHub(s *runtime.Scheme, gv schema.GroupVersion) {
	hub := internal(gv.Group)
	for kind, t := range s.KnownTypes(gv) {
		if t.PkgPath() == metaPkg {
			continue
		}
		obj, err := s.New(gv.WithKind(kind))
		utilruntime.Must(err)
		s.AddKnownTypeWithName(hub.WithKind(kind), obj)
	}
}

const metaPkg = "k8s.io/apimachinery/pkg/apis/meta/v1"
