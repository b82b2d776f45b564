package validation

import (
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	"k8s.io/apimachinery/pkg/util/sets"
	"k8s.io/apimachinery/pkg/util/validation"
	"k8s.io/apimachinery/pkg/util/validation/field"
)

// Fields that the downward API shows as environment, and as files.
var (
	envFields = sets.New("metadata.name", "metadata.namespace", "metadata.uid", "spec.nodeName", "spec.serviceAccountName",
		"status.hostIP", "status.hostIPs", "status.podIP", "status.podIPs")
	fileFields = sets.New("metadata.name", "metadata.namespace", "metadata.labels", "metadata.annotations", "metadata.uid")
	// shownResources are the resources of a container that it can be told.
	shownResources = sets.New("limits.cpu", "limits.memory", "limits.ephemeral-storage", "requests.cpu", "requests.memory", "requests.ephemeral-storage")
)

func environmentOf(r *report, p *field.Path, env []corev1.EnvVar, from []corev1.EnvFromSource, s *podScope) {
	for i := range env {
		e, at := &env[i], p.Child("env").Index(i)
		if e.Name == "" {
			r.required(at.Child("name"), "")
		} else {
			r.each(at.Child("name"), e.Name, validation.IsRelaxedEnvVarName(e.Name))
		}
		if e.ValueFrom != nil {
			valueFrom(r, at.Child("valueFrom"), e, s)
		}
	}
	for i := range from {
		f, at := &from[i], p.Child("envFrom").Index(i)
		if f.Prefix != "" {
			r.each(at.Child("prefix"), f.Prefix, validation.IsRelaxedEnvVarName(f.Prefix))
		}
		n := 0
		if f.ConfigMapRef != nil {
			n++
			objectName(r, at.Child("configMapRef", "name"), f.ConfigMapRef.Name)
		}
		if f.SecretRef != nil {
			n++
			objectName(r, at.Child("secretRef", "name"), f.SecretRef.Name)
		}
		switch {
		case n == 0:
			r.invalid(at, "", "must specify one of: `configMapRef` or `secretRef`")
		case n > 1:
			r.invalid(at, "", "may not have more than one field specified at a time")
		}
	}
}

// objectName checks the name of a ConfigMap or Secret that is referred to.
func objectName(r *report, p *field.Path, name string) {
	if name == "" {
		r.required(p, "")
		return
	}
	dnsSubdomain(r, p, name)
}

func valueFrom(r *report, p *field.Path, e *corev1.EnvVar, s *podScope) {
	v, n := e.ValueFrom, 0
	if v.FieldRef != nil {
		n++
		fieldRef(r, p.Child("fieldRef"), v.FieldRef, envFields)
	}
	if v.ResourceFieldRef != nil {
		n++
		resourceFieldRef(r, p.Child("resourceFieldRef"), v.ResourceFieldRef, false)
	}
	if v.ConfigMapKeyRef != nil {
		n++
		dnsSubdomain(r, p.Child("configMapKeyRef", "name"), v.ConfigMapKeyRef.Name)
		dataKey(r, p.Child("configMapKeyRef", "key"), v.ConfigMapKeyRef.Key)
	}
	if v.SecretKeyRef != nil {
		n++
		dnsSubdomain(r, p.Child("secretKeyRef", "name"), v.SecretKeyRef.Name)
		dataKey(r, p.Child("secretKeyRef", "key"), v.SecretKeyRef.Key)
	}
	if v.FileKeyRef != nil {
		n++
		fileKeyRef(r, p.Child("fileKeyRef"), v.FileKeyRef, s)
	}
	switch {
	case n == 0:
		r.invalid(p, "", "must specify one of: `fieldRef`, `resourceFieldRef`, `configMapKeyRef`, `secretKeyRef` or `fileKeyRef`")
	case e.Value != "":
		r.invalid(p, "", "may not be specified when `value` is not empty")
	case n > 1:
		r.invalid(p, "", "may not have more than one field specified at a time")
	}
}

func dataKey(r *report, p *field.Path, key string) {
	if key == "" {
		r.required(p, "")
		return
	}
	r.each(p, key, validation.IsConfigMapKey(key))
}

// maxFileKey bounds the key that a variable reads from a file.
const maxFileKey = 128

func fileKeyRef(r *report, p *field.Path, f *corev1.FileKeySelector, s *podScope) {
	if f.VolumeName == "" {
		r.required(p.Child("volumeName"), "")
	} else if v, ok := s.volumes[f.VolumeName]; !ok {
		r.notFound(p.Child("volumeName"), f.VolumeName)
	} else if v.EmptyDir == nil {
		r.invalid(p.Child("volumeName"), f.VolumeName, "referenced volume must be of type emptyDir")
	}
	if f.Path == "" {
		r.required(p.Child("path"), "")
	} else {
		relativePath(r, p.Child("path"), f.Path)
	}
	switch {
	case f.Key == "":
		r.required(p.Child("key"), "")
	case len(f.Key) > maxFileKey:
		r.add(field.TooLong(p.Child("key"), f.Key, maxFileKey))
	default:
		r.each(p.Child("key"), f.Key, validation.IsRelaxedEnvVarName(f.Key))
	}
}

// fieldRef checks a pod field that the downward API shows; in the environment single labels and annotations too.
func fieldRef(r *report, p *field.Path, f *corev1.ObjectFieldSelector, allowed sets.Set[string]) {
	if f.APIVersion == "" {
		r.required(p.Child("apiVersion"), "")
		return
	}
	if f.FieldPath == "" {
		r.required(p.Child("fieldPath"), "")
		return
	}
	if f.APIVersion != "v1" {
		r.invalid(p.Child("fieldPath"), f.FieldPath, "error converting fieldPath: only apiVersion v1 is known")
		return
	}
	if base, key, subscripted := subscript(f.FieldPath); subscripted {
		switch base {
		case "metadata.annotations":
			r.each(p, key, validation.IsQualifiedName(strings.ToLower(key)))
		case "metadata.labels":
			r.each(p, key, validation.IsQualifiedName(key))
		default:
			r.invalid(p.Child("fieldPath"), base, "does not support subscript")
		}
		return
	}
	if !knownPodFields.Has(f.FieldPath) {
		r.invalid(p.Child("fieldPath"), f.FieldPath, "error converting fieldPath: field label not supported")
		return
	}
	if !allowed.Has(f.FieldPath) {
		r.add(field.NotSupported(p.Child("fieldPath"), f.FieldPath, sets.List(allowed)))
	}
}

// knownPodFields are the fields of a pod that have a name at all, in selectors and in the downward API.
var knownPodFields = envFields.Union(fileFields).Union(sets.New("metadata.annotations", "metadata.labels", "spec.restartPolicy",
	"spec.schedulerName", "spec.hostNetwork", "status.phase", "status.nominatedNodeName"))

// subscript splits "metadata.labels['key']".
func subscript(path string) (base, key string, ok bool) {
	rest, ok := strings.CutSuffix(path, "']")
	if !ok {
		return path, "", false
	}
	base, key, ok = strings.Cut(rest, "['")
	return base, key, ok
}

// resourceFieldRef checks a container's resource that the downward API shows. In a volume it must say whose.
func resourceFieldRef(r *report, p *field.Path, f *corev1.ResourceFieldSelector, inVolume bool) {
	switch {
	case inVolume && f.ContainerName == "":
		r.required(p.Child("containerName"), "")
	case f.Resource == "":
		r.required(p.Child("resource"), "")
	case !shownResources.Has(f.Resource) && !strings.HasPrefix(f.Resource, "limits."+corev1.ResourceHugePagesPrefix) && !strings.HasPrefix(f.Resource, "requests."+corev1.ResourceHugePagesPrefix):
		r.add(field.NotSupported(p.Child("resource"), f.Resource, sets.List(shownResources)))
	}
	divisor(r, p, f.Resource, f.Divisor)
}

// byteDivisors are the units in which bytes can be shown.
var byteDivisors = []string{"1", "1k", "1M", "1G", "1T", "1P", "1E", "1Ki", "1Mi", "1Gi", "1Ti", "1Pi", "1Ei"}

func divisor(r *report, p *field.Path, shown string, d resource.Quantity) {
	if d.IsZero() {
		return
	}
	_, name, _ := strings.Cut(shown, ".")
	allowed := byteDivisors
	if name == string(corev1.ResourceCPU) {
		allowed = []string{"1m", "1"}
	}
	if !slices.Contains(allowed, d.String()) {
		r.invalid(p.Child("divisor"), d.String(), "only divisor's values "+strings.Join(allowed, ", ")+" are supported with the "+name+" resource")
	}
}
