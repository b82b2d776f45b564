package image

import (
	"encoding/base64"
	"encoding/json"
	"fmt"
	"net/url"
	"path"
	"sort"
	"strings"

	v1 "k8s.io/api/core/v1"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// keyring maps a registry, as host[:port][/path] with globs in the host, to credentials.
type keyring map[string][]*runtimeapi.AuthConfig

type dockerEntry struct {
	Username, Password, Email, Auth, IdentityToken string
}

// add takes over what one image pull secret holds.
func (k keyring) add(s *v1.Secret) error {
	var entries map[string]dockerEntry
	switch s.Type {
	case v1.SecretTypeDockerConfigJson:
		var f struct{ Auths map[string]dockerEntry }
		if err := json.Unmarshal(s.Data[v1.DockerConfigJsonKey], &f); err != nil {
			return fmt.Errorf("parse %s of secret %s/%s: %w", v1.DockerConfigJsonKey, s.Namespace, s.Name, err)
		}
		entries = f.Auths
	case v1.SecretTypeDockercfg:
		if err := json.Unmarshal(s.Data[v1.DockerConfigKey], &entries); err != nil {
			return fmt.Errorf("parse %s of secret %s/%s: %w", v1.DockerConfigKey, s.Namespace, s.Name, err)
		}
	default:
		return fmt.Errorf("secret %s/%s has type %q, not a docker configuration", s.Namespace, s.Name, s.Type)
	}
	for reg, e := range entries {
		a := &runtimeapi.AuthConfig{Username: e.Username, Password: e.Password, IdentityToken: e.IdentityToken}
		if e.Auth != "" && a.Username == "" {
			raw, err := base64.StdEncoding.DecodeString(e.Auth)
			if err != nil {
				return fmt.Errorf("parse auth of registry %q in secret %s/%s: not base64", reg, s.Namespace, s.Name)
			}
			a.Username, a.Password, _ = strings.Cut(string(raw), ":")
		}
		key := registryKey(reg)
		k[key] = append(k[key], a)
	}
	return nil
}

// registryKey strips scheme and the API version that docker login leaves behind.
func registryKey(s string) string {
	if !strings.Contains(s, "://") {
		s = "https://" + s
	}
	u, err := url.Parse(s)
	if err != nil {
		return strings.TrimPrefix(s, "https://")
	}
	p := u.Path
	if p == "/" || strings.HasPrefix(p, "/v1/") || strings.HasPrefix(p, "/v2/") || p == "/v1" || p == "/v2" {
		p = ""
	}
	host := u.Host
	if host == "index.docker.io" || host == "registry-1.docker.io" {
		host = "docker.io"
	}
	return host + strings.TrimSuffix(p, "/")
}

// lookup returns the credentials for an image (domain/path), the most specific registry first.
func (k keyring) lookup(domain, repository string) []*runtimeapi.AuthConfig {
	var keys []string
	for key := range k {
		host, prefix, _ := strings.Cut(key, "/")
		if !hostMatches(host, domain) {
			continue
		}
		if prefix != "" && repository != prefix && !strings.HasPrefix(repository, prefix+"/") {
			continue
		}
		keys = append(keys, key)
	}
	sort.Slice(keys, func(i, j int) bool {
		if len(keys[i]) != len(keys[j]) {
			return len(keys[i]) > len(keys[j])
		}
		return keys[i] < keys[j]
	})
	var out []*runtimeapi.AuthConfig
	for _, key := range keys {
		out = append(out, k[key]...)
	}
	return out
}

// hostMatches compares label by label, each of which may be a glob; ports must be equal.
func hostMatches(pattern, host string) bool {
	pn, pp, _ := strings.Cut(pattern, ":")
	hn, hp, _ := strings.Cut(host, ":")
	if pp != hp {
		return false
	}
	pl, hl := strings.Split(pn, "."), strings.Split(hn, ".")
	if len(pl) != len(hl) {
		return false
	}
	for i := range pl {
		if ok, err := path.Match(pl[i], hl[i]); err != nil || !ok {
			return false
		}
	}
	return true
}
