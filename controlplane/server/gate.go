package server

import (
	"context"
	"crypto/subtle"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/util/wait"
	"k8s.io/apiserver/pkg/authentication/user"
	genericapiserver "k8s.io/apiserver/pkg/server"
	"k8s.io/client-go/kubernetes"
)

// gate holds requests while the server cannot yet tell who may do what: its authorizers answer from informers, and those
// are empty for a moment after start. Without it every client that reconnects is told Forbidden, which many take for the
// truth. Health checks pass, and so do those whose rights need no looking up: the process itself and system:masters.
type gate struct {
	open  chan struct{}
	token string
}

// holdFor bounds how long a request is held; then it is told to come back. Clients give up after 30 s or more.
const holdFor = 10 * time.Second

func (g *gate) wrap(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		select {
		case <-g.open:
			next.ServeHTTP(w, r)
			return
		default:
		}
		if !g.passes(r) {
			timeout := time.NewTimer(holdFor)
			defer timeout.Stop()
			select {
			case <-g.open:
			case <-r.Context().Done():
				return
			case <-timeout.C:
				w.Header().Set("Retry-After", "1")
				http.Error(w, "the server is starting and does not know yet who may do what", http.StatusServiceUnavailable)
				return
			}
		}
		next.ServeHTTP(w, r)
	})
}

// passes judges by what the request shows; the handlers behind check that it is genuine.
func (g *gate) passes(r *http.Request) bool {
	switch path, _, _ := strings.Cut(strings.TrimPrefix(r.URL.Path, "/"), "/"); path {
	case "healthz", "livez", "readyz", "version":
		return true
	}
	bearer, ok := strings.CutPrefix(r.Header.Get("Authorization"), "Bearer ")
	if ok && subtle.ConstantTimeCompare([]byte(bearer), []byte(g.token)) == 1 {
		return true
	}
	return r.TLS != nil && len(r.TLS.PeerCertificates) > 0 &&
		slices.Contains(r.TLS.PeerCertificates[0].Subject.Organization, user.SystemPrivilegedGroup)
}

// build is a BuildHandlerChainFunc with the gate in front.
func (g *gate) build(handler http.Handler, c *genericapiserver.Config) http.Handler {
	return g.wrap(genericapiserver.DefaultBuildHandlerChain(handler, c))
}

// openWhenKnown opens the gate when the informers have loaded and show the roles and bindings that were there when it was
// called, those of the bootstrap policy among them.
func (s *Server) openWhenKnown(ctx context.Context, client kubernetes.Interface) error {
	for kind, ok := range s.informers.WaitForCacheSync(ctx.Done()) {
		if !ok {
			return fmt.Errorf("stopped before %v were read", kind)
		}
	}
	rbac, shown := client.RbacV1(), s.informers.Rbac().V1()
	roles, err := rbac.ClusterRoles().List(ctx, metav1.ListOptions{})
	if err != nil {
		return fmt.Errorf("list cluster roles: %w", err)
	}
	bindings, err := rbac.ClusterRoleBindings().List(ctx, metav1.ListOptions{})
	if err != nil {
		return fmt.Errorf("list cluster role bindings: %w", err)
	}
	namespaced, err := rbac.RoleBindings("").List(ctx, metav1.ListOptions{})
	if err != nil {
		return fmt.Errorf("list role bindings: %w", err)
	}
	err = wait.PollUntilContextCancel(ctx, readyPoll, true, func(context.Context) (bool, error) {
		r, err1 := shown.ClusterRoles().Lister().List(labels.Everything())
		b, err2 := shown.ClusterRoleBindings().Lister().List(labels.Everything())
		n, err3 := shown.RoleBindings().Lister().List(labels.Everything())
		return err1 == nil && err2 == nil && err3 == nil &&
			len(r) >= len(roles.Items) && len(b) >= len(bindings.Items) && len(n) >= len(namespaced.Items), nil
	})
	if err != nil {
		return fmt.Errorf("wait for the informers to show the bootstrap policy: %w", err)
	}
	close(s.gate.open)
	return nil
}
