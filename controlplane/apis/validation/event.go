package validation

import (
	"reflect"

	corev1 "k8s.io/api/core/v1"
	eventsv1 "k8s.io/api/events/v1"
	apivalidation "k8s.io/apimachinery/pkg/api/validation"
	"k8s.io/apimachinery/pkg/api/validation/path"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/validation"
	"k8s.io/apimachinery/pkg/util/validation/field"
)

// Bounds of the new events API.
const (
	maxReportingInstance = 128
	maxAction            = 128
	maxReason            = 128
	maxNote              = 1024
)

func eventCreate(e *corev1.Event) field.ErrorList {
	r := &report{}
	eventNamespace(r, e.Namespace, e.InvolvedObject.Namespace)
	// Events with a time in microseconds are of the new kind, whatever door they came through.
	if !e.EventTime.IsZero() {
		newStyle(r, e.ReportingController, "reportingController", e.ReportingInstance, e.Action, e.Reason, e.Type)
		if len(e.Message) > maxNote {
			r.invalid(field.NewPath("message"), "", "can have at most 1024 characters")
		}
	}
	// Old events are named after their object, whose name may be any path segment.
	eventMetadata(r, &e.ObjectMeta, e.EventTime.IsZero())
	return r.list
}

func eventUpdate(e, old *corev1.Event) field.ErrorList {
	r := &report{}
	p := field.NewPath("metadata")
	r.list = append(r.list, apivalidation.ValidateObjectMetaUpdate(&e.ObjectMeta, &old.ObjectMeta, p)...)
	return append(r.list, eventCreate(e)...)
}

func newEventCreate(e *eventsv1.Event) field.ErrorList {
	r := &report{}
	eventNamespace(r, e.Namespace, e.Regarding.Namespace)
	if e.EventTime.IsZero() {
		r.required(field.NewPath("eventTime"), "")
	}
	newStyle(r, e.ReportingController, "reportingController", e.ReportingInstance, e.Action, e.Reason, e.Type)
	if len(e.Note) > maxNote {
		r.invalid(field.NewPath("note"), "", "can have at most 1024 characters")
	}
	for name, value := range sorted(map[string]any{"deprecatedSource": e.DeprecatedSource, "deprecatedFirstTimestamp": e.DeprecatedFirstTimestamp,
		"deprecatedLastTimestamp": e.DeprecatedLastTimestamp, "deprecatedCount": e.DeprecatedCount}) {
		if !reflect.ValueOf(value).IsZero() {
			r.invalid(field.NewPath(name), value, "needs to be unset")
		}
	}
	eventMetadata(r, &e.ObjectMeta, false)
	return r.list
}

func newEventUpdate(e, old *eventsv1.Event) field.ErrorList {
	r := &report{list: newEventUpdateMeta(e, old)}
	same := func(name string, now, was any) {
		if !reflect.DeepEqual(now, was) {
			r.invalid(field.NewPath(name), now, "field is immutable")
		}
	}
	same("regarding", e.Regarding, old.Regarding)
	same("related", e.Related, old.Related)
	same("reason", e.Reason, old.Reason)
	same("type", e.Type, old.Type)
	same("reportingController", e.ReportingController, old.ReportingController)
	same("reportingInstance", e.ReportingInstance, old.ReportingInstance)
	same("action", e.Action, old.Action)
	same("note", e.Note, old.Note)
	return r.list
}

func newEventUpdateMeta(e, old *eventsv1.Event) field.ErrorList {
	return apivalidation.ValidateObjectMetaUpdate(&e.ObjectMeta, &old.ObjectMeta, field.NewPath("metadata"))
}

// eventNamespace: an event is where its object is; one about an object outside namespaces is in the default one.
func eventNamespace(r *report, namespace, about string) {
	p := field.NewPath("involvedObject", "namespace")
	switch {
	case about == "" && namespace != metav1.NamespaceDefault && namespace != metav1.NamespaceSystem:
		r.invalid(p, about, "does not match event.namespace")
	case about != "" && about != namespace:
		r.invalid(p, about, "does not match event.namespace")
	}
}

func newStyle(r *report, controller, controllerField, instance, action, reason, kind string) {
	limit := func(name, value string, max int) {
		if value == "" {
			r.required(field.NewPath(name), "")
		} else if len(value) > max {
			r.invalid(field.NewPath(name), "", "can have at most 128 characters")
		}
	}
	p := field.NewPath(controllerField)
	if controller == "" {
		r.required(p, "")
	} else {
		r.each(p, controller, validation.IsQualifiedName(controller))
	}
	limit("reportingInstance", instance, maxReportingInstance)
	limit("action", action, maxAction)
	limit("reason", reason, maxReason)
	if kind != corev1.EventTypeNormal && kind != corev1.EventTypeWarning {
		r.invalid(field.NewPath("type"), "", "has invalid value: "+kind)
	}
}

func eventMetadata(r *report, m *metav1.ObjectMeta, anyName bool) {
	p := field.NewPath("metadata")
	if m.Namespace == "" {
		r.required(p.Child("namespace"), "")
	} else {
		dnsLabel(r, p.Child("namespace"), m.Namespace)
	}
	if m.Name == "" && m.GenerateName == "" {
		r.required(p.Child("name"), "name or generateName is required")
	} else if anyName {
		r.each(p.Child("name"), m.Name, path.IsValidPathSegmentName(m.Name))
	} else if m.Name != "" {
		dnsSubdomain(r, p.Child("name"), m.Name)
	}
	labelMap(r, p.Child("labels"), m.Labels)
	annotationMap(r, p.Child("annotations"), m.Annotations)
}
