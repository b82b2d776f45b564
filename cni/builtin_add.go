package cni

import (
	"context"
	"errors"
	"fmt"
	"net/netip"

	"github.com/reevehq/reeve/internal/podnet"
)

// Add gives the sandbox an address of each of the node's ranges, a veth pair and its host ports. Whatever an earlier
// attempt for the same sandbox left is removed first. After an error nothing is left.
func (b *Builtin) Add(ctx context.Context, req podnet.Request) (podnet.Result, error) {
	if err := checkRequest(req); err != nil {
		return podnet.Result{}, fmt.Errorf("set up network: %w", err)
	}
	if err := ctx.Err(); err != nil {
		return podnet.Result{}, fmt.Errorf("set up network for sandbox %q: %w", req.SandboxID, err)
	}
	b.touch(req.SandboxID)
	b.mu.Lock()
	_, again := b.records[req.SandboxID]
	b.mu.Unlock()
	if again {
		if err := b.Del(ctx, req); err != nil {
			return podnet.Result{}, err
		}
	}
	rec, gateways, err := b.reserve(req)
	if err != nil {
		return podnet.Result{}, fmt.Errorf("set up network for sandbox %q: %w", req.SandboxID, err)
	}
	res, err := b.connect(ctx, rec, gateways)
	if err != nil {
		undo, cancel := context.WithTimeout(context.WithoutCancel(ctx), teardownTimeout)
		defer cancel()
		return podnet.Result{}, errors.Join(fmt.Errorf("set up network for sandbox %q: %w", req.SandboxID, err), unplug(rec.HostLink), b.Del(undo, req))
	}
	return res, nil
}

// reserve takes the addresses and writes the record.
func (b *Builtin) reserve(req podnet.Request) (*record, []netip.Addr, error) {
	rec := &record{
		Version: recordVersion, SandboxID: req.SandboxID, NetNS: req.NetNS,
		PodNamespace: req.PodNamespace, PodName: req.PodName, PodUID: req.PodUID,
		HostLink: b.hostLink(req.SandboxID), Ports: usedPorts(req.Ports),
	}
	limits, err := bandwidthOf(req.Annotations)
	if err != nil {
		return nil, nil, err
	}
	rec.Bandwidth = limits
	var gateways []netip.Addr
	b.mu.Lock()
	defer b.mu.Unlock()
	if len(b.ranges) == 0 {
		return nil, nil, errors.New("this node has no pod CIDR yet")
	}
	if _, ok := b.records[req.SandboxID]; ok {
		return nil, nil, errors.New("it is being set up already")
	}
	release := func() {
		for _, r := range b.ranges {
			for _, ip := range rec.IPs {
				r.Release(ip, rec.SandboxID)
			}
		}
	}
	for _, r := range b.ranges {
		ip, err := r.Allocate(rec.SandboxID)
		if err != nil {
			release()
			return nil, nil, err
		}
		rec.IPs = append(rec.IPs, ip)
		gateways = append(gateways, r.Gateway())
	}
	// The file is written under the lock, so that its absence and the addresses' freedom are one thing. It takes some 30 µs.
	if err := b.store.write(rec); err != nil {
		release()
		return nil, nil, err
	}
	b.records[req.SandboxID] = rec
	return rec, gateways, nil
}

// connect makes links, routes and host ports, and answers the CNI result.
func (b *Builtin) connect(ctx context.Context, rec *record, gateways []netip.Addr) (podnet.Result, error) {
	mtu := b.cfg.MTU
	if mtu == 0 {
		mtu = uplinkMTU()
	}
	localhost := false
	for _, p := range rec.Ports {
		localhost = localhost || reachesLoopback(p)
	}
	links, err := plug(rec, gateways, mtu, localhost)
	if err != nil {
		return podnet.Result{}, err
	}
	if len(rec.Ports) > 0 {
		if err := b.EnsureRules(ctx); err != nil {
			return podnet.Result{}, fmt.Errorf("program host ports: %w", err)
		}
		if err := forgetHostPortFlows(rec.Ports); err != nil {
			return podnet.Result{}, err
		}
	}
	raw, err := resultJSON(rec, links, gateways, mtu)
	if err != nil {
		return podnet.Result{}, err
	}
	return podnet.Result{IPs: rec.IPs, Raw: raw}, nil
}

// usedPorts drops what asks for no host port and gives the protocol its default.
func usedPorts(ports []podnet.PortMapping) []podnet.PortMapping {
	var used []podnet.PortMapping
	for _, p := range ports {
		if p.HostPort == 0 {
			continue
		}
		if p.Protocol == "" {
			p.Protocol = "TCP"
		}
		used = append(used, p)
	}
	return used
}
