package dns

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/coredns/caddy"

	"github.com/reevehq/reeve/internal/logkey"
)

// upstreamPeriod is how often the upstream resolv.conf is looked at: DHCP and VPNs rewrite it in many ways, and a look
// costs one stat.
const upstreamPeriod = 5 * time.Second

// firewallPeriod is how often a flushed rule is looked for.
const firewallPeriod = time.Minute

// Run answers DNS until ctx ends, and returns when everything that it started has stopped; the addresses are taken away
// unless cfg.KeepAddresses. It fails at once when the configuration is wrong or the address cannot be bound. Until the
// first lists have come from the API, cluster names are answered from the snapshot, or without one with SERVFAIL; others
// are forwarded.
func Run(ctx context.Context, cfg Config) error {
	cfg, err := cfg.complete()
	if err != nil {
		return err
	}
	for _, a := range cfg.ListenAddrs {
		if err := addAddress(a); err != nil {
			return err
		}
	}
	if !cfg.KeepAddresses {
		defer func() {
			if err := cleanup(cfg.ListenAddrs, cfg.ChainPrefix, cfg.IPTables); err != nil {
				cfg.Logger.Warn("Failed to remove the cluster DNS addresses", logkey.Err, err)
			}
		}()
	}
	s := &server{cfg: cfg, name: fmt.Sprintf("reeve-%p", &cfg), records: newRecords()}
	if loaded, err := s.records.load(cfg.SnapshotFile); err != nil {
		cfg.Logger.Warn("Passed over the saved names", logkey.Err, err)
	} else if loaded {
		cfg.Logger.Info("Took over the saved names", "services", len(s.records.services))
	}
	instances.Store(s.name, s.records)
	defer instances.Delete(s.name)
	if err := s.start(); err != nil {
		return err
	}
	cfg.Logger.Info("Started the cluster DNS", "addresses", joinAddrs(cfg.ListenAddrs), "upstream", s.servers)

	var wg sync.WaitGroup
	wg.Go(func() { watchAll(ctx, cfg.Client, s.records) })
	wg.Go(func() {
		select {
		case <-ctx.Done():
		case <-s.records.ready:
			cfg.Logger.Info("Loaded the cluster's names")
		}
	})
	tick := time.NewTicker(upstreamPeriod)
	defer tick.Stop()
	firewall := time.NewTicker(firewallPeriod)
	defer firewall.Stop()
	s.openFirewall(ctx)
	for ctx.Err() == nil {
		select {
		case <-ctx.Done():
		case <-tick.C:
			s.refresh()
		case <-firewall.C:
			s.openFirewall(ctx)
		}
		s.save()
	}
	wg.Wait()
	s.save()
	return s.stop()
}

// server is one running CoreDNS instance.
type server struct {
	cfg      Config
	name     string
	records  *records
	instance *caddy.Instance
	servers  []string
	text     string
	stamp    string

	firewallFailed bool
}

// input reads the upstream servers and renders the configuration. No readable resolv.conf means no upstream.
func (s *server) input() caddy.CaddyfileInput {
	s.stamp = stamp(s.cfg.UpstreamResolvConf, resolvedConf)
	servers, err := upstreams(s.cfg.UpstreamResolvConf, s.cfg.ListenAddrs)
	if err != nil {
		s.cfg.Logger.Warn("Found no upstream DNS servers, refusing names outside the cluster", logkey.Err, err)
	}
	s.servers = servers
	s.text = corefile(s.cfg, servers)
	return caddy.CaddyfileInput{Filepath: s.name, Contents: []byte(s.text), ServerTypeName: "dns"}
}

func (s *server) save() {
	if err := s.records.save(s.cfg.SnapshotFile); err != nil {
		s.cfg.Logger.Warn("Failed to save the cluster's names", logkey.Err, err)
	}
}

// openFirewall lets questions in. Without it the DNS works on most hosts, so its failure is only said, once.
func (s *server) openFirewall(ctx context.Context) {
	err := openFirewall(ctx, s.cfg)
	if err != nil && ctx.Err() == nil && !s.firewallFailed {
		s.cfg.Logger.Warn("Failed to let DNS questions through the host's firewall", logkey.Err, err)
	}
	s.firewallFailed = err != nil
}

func (s *server) start() error {
	instance, err := caddy.Start(s.input())
	if err != nil {
		return fmt.Errorf("start the cluster DNS on %s port %d: %w", joinAddrs(s.cfg.ListenAddrs), s.cfg.Port, err)
	}
	s.instance = instance
	return nil
}

// refresh takes over other upstream servers without closing a socket.
func (s *server) refresh() {
	if stamp(s.cfg.UpstreamResolvConf, resolvedConf) == s.stamp {
		return
	}
	before := s.text
	input := s.input()
	if s.text == before {
		return
	}
	instance, err := s.instance.Restart(input)
	if err != nil {
		s.cfg.Logger.Warn("Failed to take over new upstream DNS servers", logkey.Err, err)
		s.text, s.stamp = before, "" // again at the next look
		return
	}
	s.instance = instance
	s.cfg.Logger.Info("Took over new upstream DNS servers", "upstream", s.servers)
}

func (s *server) stop() error {
	errs := append(s.instance.ShutdownCallbacks(), s.instance.Stop())
	s.instance.Wait()
	if err := errors.Join(errs...); err != nil {
		return fmt.Errorf("stop the cluster DNS: %w", err)
	}
	return nil
}
