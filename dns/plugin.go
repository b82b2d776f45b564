package dns

import (
	"context"
	"fmt"
	"slices"
	"sync"

	"github.com/coredns/caddy"
	"github.com/coredns/coredns/core/dnsserver"
	"github.com/coredns/coredns/plugin"
	_ "github.com/coredns/coredns/plugin/bind"
	_ "github.com/coredns/coredns/plugin/cache"
	_ "github.com/coredns/coredns/plugin/errors"
	_ "github.com/coredns/coredns/plugin/forward"
	"github.com/coredns/coredns/plugin/kubernetes"
	"github.com/miekg/dns"
)

// Names of our two directives.
const (
	recordsDirective = "reeve_records" // the kubernetes plugin over our records
	refuseDirective  = "reeve_refuse"  // the end of the chain where there is no upstream server
)

// instances finds the records of a running server by the name of its configuration; CoreDNS has no other way to hand a
// value to a plugin.
var instances sync.Map // string → *records

func init() {
	dnsserver.Quiet, caddy.Quiet = true, true
	dnsserver.Directives = slices.Insert(slices.Clone(dnsserver.Directives), slices.Index(dnsserver.Directives, "kubernetes"), recordsDirective)
	dnsserver.Directives = append(dnsserver.Directives, refuseDirective)
	plugin.Register(recordsDirective, setupRecords)
	plugin.Register(refuseDirective, setupRefuse)
}

func setupRecords(c *caddy.Controller) error {
	found, ok := instances.Load(c.File())
	if !ok {
		return plugin.Error(recordsDirective, fmt.Errorf("no records for configuration %q", c.File()))
	}
	c.Next()
	k, err := kubernetes.ParseStanza(c)
	if err != nil {
		return plugin.Error(recordsDirective, err)
	}
	k.APIConn = found.(*records)
	dnsserver.GetConfig(c).AddPlugin(func(next plugin.Handler) plugin.Handler {
		k.Next = next
		return k
	})
	return nil
}

func setupRefuse(c *caddy.Controller) error {
	dnsserver.GetConfig(c).AddPlugin(func(plugin.Handler) plugin.Handler { return refuse{} })
	return nil
}

// refuse answers REFUSED, so that a resolver goes on at once instead of waiting.
type refuse struct{}

func (refuse) Name() string { return refuseDirective }

func (refuse) ServeDNS(_ context.Context, w dns.ResponseWriter, r *dns.Msg) (int, error) {
	m := new(dns.Msg)
	m.SetRcode(r, dns.RcodeRefused)
	return 0, w.WriteMsg(m)
}
