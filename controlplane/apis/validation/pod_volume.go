package validation

import (
	"reflect"
	"strings"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/util/sets"
	"k8s.io/apimachinery/pkg/util/validation/field"
)

// podVolumes checks the volumes and returns them by name.
func podVolumes(r *report, p *field.Path, list []corev1.Volume) map[string]*corev1.Volume {
	byName := make(map[string]*corev1.Volume, len(list))
	for i := range list {
		v, at := &list[i], p.Index(i)
		switch {
		case v.Name == "":
			r.required(at.Child("name"), "")
		default:
			dnsLabel(r, at.Child("name"), v.Name)
			if _, twice := byName[v.Name]; twice {
				r.duplicate(at.Child("name"), v.Name)
			}
		}
		volumeSource(r, at, v)
		byName[v.Name] = v
	}
	return byName
}

// volumeSource wants exactly one source, and checks it.
func volumeSource(r *report, p *field.Path, v *corev1.Volume) {
	source := oneSource(r, p, &v.VolumeSource)
	if source == "" {
		return
	}
	at := p.Child(source)
	switch source {
	case "hostPath":
		hostPath(r, at, v.HostPath)
	case "emptyDir":
		emptyDir(r, at, v.EmptyDir)
	case "secret":
		s := v.Secret
		if s.SecretName == "" {
			r.required(at.Child("secretName"), "")
		}
		fileMode(r, at.Child("defaultMode"), s.DefaultMode)
		items(r, at.Child("items"), s.Items)
	case "configMap":
		s := v.ConfigMap
		if s.Name == "" {
			r.required(at.Child("name"), "")
		}
		fileMode(r, at.Child("defaultMode"), s.DefaultMode)
		items(r, at.Child("items"), s.Items)
	case "downwardAPI":
		fileMode(r, at.Child("defaultMode"), v.DownwardAPI.DefaultMode)
		downwardFiles(r, at.Child("items"), v.DownwardAPI.Items)
	case "projected":
		projected(r, at, v.Projected)
	case "persistentVolumeClaim":
		if v.PersistentVolumeClaim.ClaimName == "" {
			r.required(at.Child("claimName"), "")
		}
	case "ephemeral":
		ephemeralVolume(r, at, v.Ephemeral)
	case "image":
		image(r, at.Child("reference"), v.Image.Reference)
		oneOf(r, at.Child("pullPolicy"), v.Image.PullPolicy, false, corev1.PullAlways, corev1.PullIfNotPresent, corev1.PullNever)
	case "csi":
		csiVolume(r, at, v.CSI)
	default:
		remoteVolume(r, at, &v.VolumeSource)
	}
}

// oneSource names the source that is set, the first where there are more than the one there should be, "" where there is none.
func oneSource(r *report, p *field.Path, union any) string {
	sources := setFields(union)
	if len(sources) == 0 {
		r.required(p, "must specify a volume type")
		return ""
	}
	for _, extra := range sources[1:] {
		r.forbidden(p.Child(extra), "may not specify more than 1 volume type")
	}
	return sources[0]
}

// setFields names the fields of a union of pointers that are set, in order of declaration.
func setFields(union any) []string {
	value := reflect.ValueOf(union).Elem()
	var out []string
	for i := range value.NumField() {
		if f := value.Field(i); f.Kind() == reflect.Pointer && !f.IsNil() {
			name, _, _ := strings.Cut(value.Type().Field(i).Tag.Get("json"), ",")
			out = append(out, name)
		}
	}
	return out
}

func hostPath(r *report, p *field.Path, h *corev1.HostPathVolumeSource) {
	if h.Path == "" {
		r.required(p.Child("path"), "")
		return
	}
	noClimbing(r, p.Child("path"), h.Path)
	optionalOneOf(r, p.Child("type"), h.Type, corev1.HostPathUnset, corev1.HostPathDirectoryOrCreate, corev1.HostPathDirectory,
		corev1.HostPathFileOrCreate, corev1.HostPathFile, corev1.HostPathSocket, corev1.HostPathCharDev, corev1.HostPathBlockDev)
}

func emptyDir(r *report, p *field.Path, e *corev1.EmptyDirVolumeSource) {
	if e.SizeLimit != nil && e.SizeLimit.Sign() < 0 {
		r.forbidden(p.Child("sizeLimit"), "SizeLimit field must be a valid resource quantity")
	}
	m := e.Medium
	switch {
	case m == corev1.StorageMediumDefault, m == corev1.StorageMediumMemory, m == corev1.StorageMediumHugePages:
	case strings.HasPrefix(string(m), string(corev1.StorageMediumHugePagesPrefix)):
	default:
		r.add(field.NotSupported(p.Child("medium"), m, []corev1.StorageMedium{corev1.StorageMediumDefault, corev1.StorageMediumMemory, corev1.StorageMediumHugePages}))
	}
}

func fileMode(r *report, p *field.Path, mode *int32) {
	if mode != nil && (*mode < 0 || *mode > 0o777) {
		r.invalid(p, *mode, "must be a number between 0 and 0777 (octal), both inclusive")
	}
}

func items(r *report, p *field.Path, list []corev1.KeyToPath) {
	for i, item := range list {
		at := p.Index(i)
		if item.Key == "" {
			r.required(at.Child("key"), "")
		}
		relativeNonEmpty(r, at.Child("path"), item.Path)
		fileMode(r, at.Child("mode"), item.Mode)
	}
}

func downwardFiles(r *report, p *field.Path, list []corev1.DownwardAPIVolumeFile) {
	for i := range list {
		f, at := &list[i], p.Index(i)
		relativeNonEmpty(r, at.Child("path"), f.Path)
		switch {
		case f.FieldRef != nil:
			fieldRef(r, at.Child("fieldRef"), f.FieldRef, fileFields)
			if f.ResourceFieldRef != nil {
				r.invalid(at, "resource", "fieldRef and resourceFieldRef can not be specified simultaneously")
			}
		case f.ResourceFieldRef != nil:
			resourceFieldRef(r, at.Child("resourceFieldRef"), f.ResourceFieldRef, true)
		default:
			r.required(at, "one of fieldRef and resourceFieldRef is required")
		}
		fileMode(r, at.Child("mode"), f.Mode)
	}
}

const (
	// A token lives at least 10 min, so that a kubelet can renew it, and at most 2^32 seconds.
	minTokenSeconds = 10 * 60
	maxTokenSeconds = 1 << 32
)

// projected checks the sources of a projected volume: no two may put a file at one path.
func projected(r *report, p *field.Path, v *corev1.ProjectedVolumeSource) {
	fileMode(r, p.Child("defaultMode"), v.DefaultMode)
	paths := sets.New[string]()
	claim := func(at *field.Path, path string) {
		if path == "" {
			return
		}
		if paths.Has(path) {
			r.invalid(at, path, "conflicting duplicate paths")
		}
		paths.Insert(path)
	}
	for i := range v.Sources {
		s, at := &v.Sources[i], p.Child("sources").Index(i)
		set := setFields(s)
		if len(set) == 0 {
			r.required(at, "must specify a projected volume source")
			continue
		}
		for _, extra := range set[1:] {
			r.forbidden(at.Child(extra), "may not specify more than 1 volume type per source")
		}
		in := at.Child(set[0])
		switch set[0] {
		case "secret":
			if s.Secret.Name == "" {
				r.required(in.Child("name"), "")
			}
			items(r, in.Child("items"), s.Secret.Items)
			for _, item := range s.Secret.Items {
				claim(in, item.Path)
			}
		case "configMap":
			if s.ConfigMap.Name == "" {
				r.required(in.Child("name"), "")
			}
			items(r, in.Child("items"), s.ConfigMap.Items)
			for _, item := range s.ConfigMap.Items {
				claim(in, item.Path)
			}
		case "downwardAPI":
			downwardFiles(r, in.Child("items"), s.DownwardAPI.Items)
			for _, item := range s.DownwardAPI.Items {
				claim(in, item.Path)
			}
		case "serviceAccountToken":
			t := s.ServiceAccountToken
			if t.ExpirationSeconds != nil {
				switch {
				case *t.ExpirationSeconds < minTokenSeconds:
					r.invalid(in.Child("expirationSeconds"), *t.ExpirationSeconds, "may not specify a duration less than 10 minutes")
				case *t.ExpirationSeconds > maxTokenSeconds:
					r.invalid(in.Child("expirationSeconds"), *t.ExpirationSeconds, "may not specify a duration larger than 2^32 seconds")
				}
			}
			relativeNonEmpty(r, in.Child("path"), t.Path)
			claim(in, t.Path)
		case "clusterTrustBundle":
			trustBundle(r, in, s.ClusterTrustBundle)
			claim(in, s.ClusterTrustBundle.Path)
		case "podCertificate":
			podCertificate(r, in, s.PodCertificate)
			for _, path := range []string{s.PodCertificate.CredentialBundlePath, s.PodCertificate.KeyPath, s.PodCertificate.CertificateChainPath} {
				claim(in, path)
			}
		}
	}
}

func trustBundle(r *report, p *field.Path, b *corev1.ClusterTrustBundleProjection) {
	switch {
	case b.Name != nil && b.SignerName != nil:
		r.invalid(p, b.Name, "only one of name and signerName may be used")
	case b.Name != nil:
		if *b.Name == "" {
			r.required(p.Child("name"), "must be a valid object name")
		}
		if b.LabelSelector != nil {
			r.invalid(p.Child("labelSelector"), b.LabelSelector, "labelSelector must be unset if name is specified")
		}
	case b.SignerName != nil:
		if *b.SignerName == "" {
			r.required(p.Child("signerName"), "must be a valid signer name")
		}
		selector(r, p.Child("labelSelector"), b.LabelSelector)
	default:
		r.required(p, "either name or signerName must be specified")
	}
	relativeNonEmpty(r, p.Child("path"), b.Path)
}

// podKeyTypes are the keys that a node can make for a pod's certificate.
var podKeyTypes = []string{"RSA3072", "RSA4096", "ECDSAP256", "ECDSAP384", "ECDSAP521", "ED25519"}

const (
	minCertificateSeconds = 3600
	maxCertificateSeconds = 91 * 24 * 3600
)

func podCertificate(r *report, p *field.Path, c *corev1.PodCertificateProjection) {
	if c.SignerName == "" {
		r.required(p.Child("signerName"), "")
	} else {
		signerName(r, p.Child("signerName"), c.SignerName)
	}
	oneOf(r, p.Child("keyType"), c.KeyType, true, podKeyTypes...)
	if m := c.MaxExpirationSeconds; m != nil && (*m < minCertificateSeconds || *m > maxCertificateSeconds) {
		r.invalid(p.Child("maxExpirationSeconds"), *m, "must be between 3600 and 7862400 seconds")
	}
	any := false
	for name, path := range sorted(map[string]string{"credentialBundlePath": c.CredentialBundlePath, "keyPath": c.KeyPath, "certificateChainPath": c.CertificateChainPath}) {
		if path != "" {
			any = true
			relativeNonEmpty(r, p.Child(name), path)
		}
	}
	if !any {
		r.required(p, "specify at least one of credentialBundlePath, keyPath, and certificateChainPath")
	}
}

func ephemeralVolume(r *report, p *field.Path, e *corev1.EphemeralVolumeSource) {
	if e.VolumeClaimTemplate == nil {
		r.required(p.Child("volumeClaimTemplate"), "")
		return
	}
	at := p.Child("volumeClaimTemplate")
	labelMap(r, at.Child("metadata", "labels"), e.VolumeClaimTemplate.Labels)
	annotationMap(r, at.Child("metadata", "annotations"), e.VolumeClaimTemplate.Annotations)
	only := e.VolumeClaimTemplate.ObjectMeta.DeepCopy()
	only.Labels, only.Annotations = nil, nil
	if !reflect.ValueOf(*only).IsZero() {
		r.forbidden(at.Child("metadata"), "cannot be set for an ephemeral volume: only labels and annotations may be")
	}
	claimSpec(r, at.Child("spec"), &e.VolumeClaimTemplate.Spec)
}
