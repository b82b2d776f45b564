package server

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"time"

	authorizationv1 "k8s.io/api/authorization/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"
)

// KubeletConfiguration's authorization.webhook.cacheAuthorizedTTL and cacheUnauthorizedTTL.
const (
	allowedTTL = 5 * time.Minute
	deniedTTL  = 30 * time.Second
)

// attrs is one way in which a request may be allowed: a verb on a subresource of this node.
type attrs struct {
	Verb        string
	Subresource string
}

// attributes says what a request needs, any one of the answers being enough: the subresource made for its path, or
// "proxy", which stands for all of the kubelet's API. Source: "Kubelet authentication/authorization" of the Kubernetes
// documentation, with fine-grained authorization. Pure.
func attributes(method, path string) []attrs {
	verb := ""
	switch method {
	case http.MethodPost:
		verb = "create"
	case http.MethodGet, http.MethodHead:
		verb = "get"
	case http.MethodPut:
		verb = "update"
	case http.MethodPatch:
		verb = "patch"
	case http.MethodDelete:
		verb = "delete"
	}
	under := func(p string) bool { return path == p || strings.HasPrefix(path, p+"/") }
	switch {
	case under("/stats"):
		return []attrs{{verb, "stats"}}
	case under("/metrics"):
		return []attrs{{verb, "metrics"}}
	case under("/logs"):
		return []attrs{{verb, "log"}}
	case under("/checkpoint"):
		return []attrs{{verb, "checkpoint"}}
	case under("/pods"), under("/runningpods"):
		return []attrs{{verb, "pods"}, {verb, "proxy"}}
	case under("/healthz"):
		return []attrs{{verb, "healthz"}, {verb, "proxy"}}
	case under("/configz"):
		return []attrs{{verb, "configz"}, {verb, "proxy"}}
	}
	return []attrs{{verb, "proxy"}}
}

// authorizer asks the API server, and remembers.
type authorizer struct {
	node   string
	client kubernetes.Interface
	always bool
	seen   *cache[string, decision]
}

type decision struct {
	allowed bool
	reason  string
}

func newAuthorizer(cfg Config) *authorizer {
	return &authorizer{node: cfg.NodeName, client: cfg.Client, always: cfg.AlwaysAllow, seen: newCache[string, decision]()}
}

func (z *authorizer) authorize(ctx context.Context, u user, any []attrs) (allowed bool, reason string, err error) {
	if z.always {
		return true, "", nil
	}
	if z.client == nil {
		if slices.Contains(u.Groups, "system:masters") {
			return true, "", nil
		}
		return false, "this node runs without an API server, so only system:masters may ask it", nil
	}
	for _, a := range any {
		d, err := z.one(ctx, u, a)
		if err != nil {
			return false, "", err
		}
		if d.allowed {
			return true, "", nil
		}
		reason = d.reason
	}
	return false, reason, nil
}

func (z *authorizer) one(ctx context.Context, u user, a attrs) (decision, error) {
	spec := authorizationv1.SubjectAccessReviewSpec{
		User: u.Name, UID: u.UID, Groups: u.Groups,
		ResourceAttributes: &authorizationv1.ResourceAttributes{Verb: a.Verb, Version: "v1", Resource: "nodes", Subresource: a.Subresource, Name: z.node},
	}
	if len(u.Extra) > 0 {
		spec.Extra = make(map[string]authorizationv1.ExtraValue, len(u.Extra))
		for k, v := range u.Extra {
			spec.Extra[k] = authorizationv1.ExtraValue(v)
		}
	}
	raw, err := json.Marshal(spec)
	if err != nil {
		return decision{}, fmt.Errorf("encode access review: %w", err)
	}
	key := string(raw)
	if d, ok := z.seen.get(key); ok {
		return d, nil
	}
	ctx, cancel := context.WithTimeout(ctx, reviewTimeout)
	defer cancel()
	res, err := z.client.AuthorizationV1().SubjectAccessReviews().Create(ctx, &authorizationv1.SubjectAccessReview{Spec: spec}, metav1.CreateOptions{})
	if err != nil {
		return decision{}, fmt.Errorf("review access of %q: %w", u.Name, err)
	}
	d := decision{res.Status.Allowed, res.Status.Reason}
	ttl := deniedTTL
	if d.allowed {
		ttl = allowedTTL
	}
	z.seen.put(key, d, ttl)
	return d, nil
}

func forbidden(u user, any []attrs, node, reason string) string {
	var subs []string
	for _, a := range any {
		subs = append(subs, a.Subresource)
	}
	msg := fmt.Sprintf("Forbidden (user=%s, verb=%s, resource=nodes, subresource(s)=%v, name=%s)", u.Name, any[0].Verb, subs, node)
	if reason != "" {
		msg += ": " + reason
	}
	return msg
}
