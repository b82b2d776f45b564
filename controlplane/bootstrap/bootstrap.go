package bootstrap

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"time"

	"k8s.io/apimachinery/pkg/util/wait"
	"k8s.io/client-go/kubernetes"

	"github.com/reevehq/reeve/controlplane/pki"
)

// Config says what this cluster looks like.
type Config struct {
	Client kubernetes.Interface
	Logger *slog.Logger
	PKI    *pki.PKI

	// AdvertiseIP and Port are where the API is reached; ServerURL is the same for kubeconfigs.
	AdvertiseIP netip.Addr
	Port        int
	ServerURL   string
	// ServiceCIDRs, primary family first; its first address is the kubernetes Service's.
	ServiceCIDRs []netip.Prefix
	// ClusterDNS is the address of the kube-dns Service; invalid where the cluster has none.
	ClusterDNS netip.Addr
	// TokenFile is where the node token is written, 0600.
	TokenFile string
}

const (
	// attemptTimeout bounds one pass over all objects.
	attemptTimeout = 30 * time.Second
	retryEvery     = 200 * time.Millisecond
)

// Run makes everything, trying again until it has succeeded or ctx ends: right after start some admission plugins still
// wait for their informers. It returns the last error when ctx ends first.
func Run(ctx context.Context, c Config) error {
	var last error
	err := wait.PollUntilContextCancel(ctx, retryEvery, true, func(ctx context.Context) (bool, error) {
		attempt, cancel := context.WithTimeout(ctx, attemptTimeout)
		defer cancel()
		last = once(attempt, c)
		if last != nil {
			c.Logger.Debug("Could not make all bootstrap objects yet", "err", last)
		}
		return last == nil, nil
	})
	if err != nil {
		return fmt.Errorf("make bootstrap objects: %w", errors.Join(last, err))
	}
	return nil
}

// once makes each kind of object in the order in which they need each other; an error in one does not keep the others
// from being made.
func once(ctx context.Context, c Config) error {
	var errs []error
	for _, step := range []func(context.Context, Config) error{
		namespaces, priorityClasses, serviceCIDR, kubernetesService, kubernetesEndpoints, dnsService,
		extensionAuthentication, nodeToken, clusterInfo,
	} {
		errs = append(errs, step(ctx, c))
	}
	return errors.Join(errs...)
}
