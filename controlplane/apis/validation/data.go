package validation

import (
	"bytes"
	"encoding/json"
	"maps"
	"slices"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/util/validation"
	"k8s.io/apimachinery/pkg/util/validation/field"
)

func configMapCreate(c *corev1.ConfigMap) field.ErrorList {
	r := &report{}
	total := 0
	for _, key := range slices.Sorted(maps.Keys(c.Data)) {
		r.each(field.NewPath("data").Key(key), key, validation.IsConfigMapKey(key))
		if _, twice := c.BinaryData[key]; twice {
			r.invalid(field.NewPath("data").Key(key), key, "duplicate of key present in binaryData")
		}
		total += len(c.Data[key])
	}
	for _, key := range slices.Sorted(maps.Keys(c.BinaryData)) {
		r.each(field.NewPath("binaryData").Key(key), key, validation.IsConfigMapKey(key))
		total += len(c.BinaryData[key])
	}
	if total > corev1.MaxSecretSize {
		// The path is empty: it is the whole that is too large. The value is left out, or the error would be as large.
		r.add(field.TooLong(field.NewPath(""), "", corev1.MaxSecretSize))
	}
	return r.list
}

func configMapUpdate(c, old *corev1.ConfigMap) field.ErrorList {
	r := &report{}
	if old.Immutable != nil && *old.Immutable {
		const why = "field is immutable when `immutable` is set"
		if c.Immutable == nil || !*c.Immutable {
			r.forbidden(field.NewPath("immutable"), why)
		}
		if !maps.Equal(c.Data, old.Data) {
			r.forbidden(field.NewPath("data"), why)
		}
		if !maps.EqualFunc(c.BinaryData, old.BinaryData, bytes.Equal) {
			r.forbidden(field.NewPath("binaryData"), why)
		}
	}
	return append(r.list, configMapCreate(c)...)
}

func secretCreate(s *corev1.Secret) field.ErrorList {
	r := &report{}
	p := field.NewPath("data")
	total := 0
	for _, key := range slices.Sorted(maps.Keys(s.Data)) {
		r.each(p.Key(key), key, validation.IsConfigMapKey(key))
		total += len(s.Data[key])
	}
	if total > corev1.MaxSecretSize {
		r.add(field.TooLong(p, "", corev1.MaxSecretSize))
	}
	need := func(key string) {
		if _, ok := s.Data[key]; !ok {
			r.required(p.Key(key), "")
		}
	}
	parses := func(key string) {
		raw, ok := s.Data[key]
		if !ok {
			r.required(p.Key(key), "")
			return
		}
		if err := json.Unmarshal(raw, &map[string]any{}); err != nil {
			r.invalid(p.Key(key), "<secret contents redacted>", err.Error())
		}
	}
	switch s.Type {
	case corev1.SecretTypeServiceAccountToken:
		// Without its account's name the token controller could not fill it.
		if s.Annotations[corev1.ServiceAccountNameKey] == "" {
			r.required(field.NewPath("metadata", "annotations").Key(corev1.ServiceAccountNameKey), "")
		}
	case corev1.SecretTypeDockercfg:
		parses(corev1.DockerConfigKey)
	case corev1.SecretTypeDockerConfigJson:
		parses(corev1.DockerConfigJsonKey)
	case corev1.SecretTypeBasicAuth:
		_, user := s.Data[corev1.BasicAuthUsernameKey]
		_, password := s.Data[corev1.BasicAuthPasswordKey]
		if !user && !password {
			r.required(p.Key(corev1.BasicAuthUsernameKey), "")
			r.required(p.Key(corev1.BasicAuthPasswordKey), "")
		}
	case corev1.SecretTypeSSHAuth:
		if len(s.Data[corev1.SSHAuthPrivateKey]) == 0 {
			r.required(p.Key(corev1.SSHAuthPrivateKey), "")
		}
	case corev1.SecretTypeTLS:
		need(corev1.TLSCertKey)
		need(corev1.TLSPrivateKeyKey)
	}
	return r.list
}

func secretUpdate(s, old *corev1.Secret) field.ErrorList {
	r := &report{}
	immutable(r, field.NewPath("type"), s.Type, old.Type, func(a, b corev1.SecretType) bool { return a == b })
	if old.Immutable != nil && *old.Immutable {
		const why = "field is immutable when `immutable` is set"
		if s.Immutable == nil || !*s.Immutable {
			r.forbidden(field.NewPath("immutable"), why)
		}
		if !maps.EqualFunc(s.Data, old.Data, bytes.Equal) {
			r.forbidden(field.NewPath("data"), why)
		}
	}
	return append(r.list, secretCreate(s)...)
}
