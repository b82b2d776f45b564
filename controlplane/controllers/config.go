package controllers

import (
	"crypto"
	"crypto/x509"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"time"

	"k8s.io/apimachinery/pkg/api/meta"
	"k8s.io/client-go/dynamic"
	"k8s.io/client-go/informers"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/metadata"
	"k8s.io/client-go/rest"
)

// Config is what Run needs.
type Config struct {
	// RESTConfig builds every client that is not given. It should carry no rate limit (QPS -1): the controllers live beside
	// the API server, whose priority and fairness sets the pace.
	RESTConfig *rest.Config
	Client     kubernetes.Interface
	Dynamic    dynamic.Interface
	Metadata   metadata.Interface
	// Informers may be shared with the scheduler; nil: made by NewInformers.
	Informers informers.SharedInformerFactory

	// RootCA is the PEM bundle that goes to every namespace as ConfigMap kube-root-ca.crt. Empty: not published.
	RootCA []byte
	// SigningCert and SigningKey sign node and client certificates. Nil: requests stay unsigned.
	SigningCert *x509.Certificate
	SigningKey  crypto.Signer
	// CertDuration is how long signed certificates hold; zero: one year.
	CertDuration time.Duration
	// ServerNames and ServerIPs are what the API server's certificate is for: no node but LocalNode gets a serving
	// certificate for one of them approved by itself.
	ServerNames []string
	ServerIPs   []net.IP
	LocalNode   string
	// AccountTokens mints legacy tokens for Secrets of type kubernetes.io/service-account-token. Nil: such Secrets stay empty.
	AccountTokens func(namespace, account, uid, secret string) (token string, err error)

	// ClusterCIDRs are the ranges that nodes' pod ranges are cut from, one of each IP family at most. Empty: nodes get none.
	ClusterCIDRs []netip.Prefix
	// NodeMaskIPv4 and NodeMaskIPv6 are the prefix lengths of a node's share; zero: 24 and 64.
	NodeMaskIPv4, NodeMaskIPv6 int
	// ServiceCIDRs are kept out of the nodes' ranges.
	ServiceCIDRs []netip.Prefix

	// NodeGracePeriod is how old a node's lease may grow before it counts as lost; zero: 40 s.
	NodeGracePeriod time.Duration
	// TerminatedPodThreshold is how many finished pods may stay; zero: 12500.
	TerminatedPodThreshold int
	// ServiceLB has node addresses announced for Services of type LoadBalancer.
	ServiceLB bool
	// Disable names controllers that do not run.
	Disable []string

	Log *slog.Logger
}

func (c *Config) complete() error {
	var errs []error
	if c.Log == nil {
		c.Log = slog.New(slog.DiscardHandler)
	}
	if c.RESTConfig != nil {
		c.RESTConfig = rest.CopyConfig(c.RESTConfig)
		c.RESTConfig.WarningHandler = rest.NoWarnings{} // Endpoints are deprecated, and still to be written
	}
	make := func(what string, missing bool, f func() error) {
		if !missing {
			return
		}
		if c.RESTConfig == nil {
			errs = append(errs, fmt.Errorf("controllers config: give RESTConfig or %s", what))
			return
		}
		if err := f(); err != nil {
			errs = append(errs, fmt.Errorf("make %s: %w", what, err))
		}
	}
	make("Client", c.Client == nil, func() (err error) { c.Client, err = kubernetes.NewForConfig(protobuf(c.RESTConfig)); return })
	make("Dynamic", c.Dynamic == nil, func() (err error) { c.Dynamic, err = dynamic.NewForConfig(c.RESTConfig); return })
	make("Metadata", c.Metadata == nil, func() (err error) { c.Metadata, err = metadata.NewForConfig(c.RESTConfig); return })
	if c.NodeMaskIPv4 == 0 {
		c.NodeMaskIPv4 = 24
	}
	if c.NodeMaskIPv6 == 0 {
		c.NodeMaskIPv6 = 64
	}
	families := map[bool]bool{}
	for _, p := range c.ClusterCIDRs {
		is4 := p.Addr().Is4()
		mask := c.NodeMaskIPv6
		if is4 {
			mask = c.NodeMaskIPv4
		}
		switch {
		case families[is4]:
			errs = append(errs, fmt.Errorf("controllers config: cluster CIDR %s: a range of that IP family was given already", p))
		case p.Bits() > mask:
			errs = append(errs, fmt.Errorf("controllers config: cluster CIDR %s is smaller than one node's /%d", p, mask))
		}
		families[is4] = true
	}
	if (c.SigningCert == nil) != (c.SigningKey == nil) {
		errs = append(errs, errors.New("controllers config: give both SigningCert and SigningKey, or neither"))
	}
	if c.CertDuration == 0 {
		c.CertDuration = 365 * 24 * time.Hour
	}
	if c.NodeGracePeriod == 0 {
		c.NodeGracePeriod = 40 * time.Second
	}
	if c.TerminatedPodThreshold == 0 {
		c.TerminatedPodThreshold = 12500
	}
	if len(errs) == 0 && c.Informers == nil {
		c.Informers = NewInformers(c.Client)
	}
	return errors.Join(errs...)
}

// protobuf has typed clients speak the encoding that costs both ends least.
func protobuf(c *rest.Config) *rest.Config {
	c = rest.CopyConfig(c)
	c.AcceptContentTypes = "application/vnd.kubernetes.protobuf,application/json"
	c.ContentType = "application/vnd.kubernetes.protobuf"
	return c
}

// NewInformers makes the factory that scheduler and controllers share: no resync, and objects are kept without
// managedFields, which nothing here reads and which often are half of an object.
func NewInformers(client kubernetes.Interface) informers.SharedInformerFactory {
	return informers.NewSharedInformerFactoryWithOptions(client, 0, informers.WithTransform(StripManagedFields))
}

// StripManagedFields is a transform for informers.
func StripManagedFields(obj any) (any, error) {
	if a, err := meta.Accessor(obj); err == nil {
		a.SetManagedFields(nil)
	}
	return obj, nil
}
