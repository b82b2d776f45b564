package cni

import (
	"encoding/json"
	"fmt"
	"net"
	"net/netip"

	"github.com/containernetworking/cni/pkg/types"
	types100 "github.com/containernetworking/cni/pkg/types/100"

	"github.com/reevehq/reeve/internal/podnet"
)

// cniVersion of the results that Builtin answers.
const cniVersion = "1.0.0"

// resultJSON is the CNI result of a built-in ADD: interface 0 on the node, 1 in the pod.
func resultJSON(rec *record, links pair, gateways []netip.Addr, mtu int) ([]byte, error) {
	inPod := 1
	res := &types100.Result{
		CNIVersion: cniVersion,
		Interfaces: []*types100.Interface{
			{Name: rec.HostLink, Mac: links.hostMAC, Mtu: mtu},
			{Name: podInterface, Mac: links.podMAC, Mtu: mtu, Sandbox: rec.NetNS},
		},
	}
	for i, ip := range rec.IPs {
		res.IPs = append(res.IPs, &types100.IPConfig{Interface: &inPod, Address: *hostNet(ip), Gateway: net.IP(gateways[i].AsSlice())})
		res.Routes = append(res.Routes, &types.Route{Dst: *defaultNet(ip), GW: net.IP(gateways[i].AsSlice())})
	}
	raw, err := json.Marshal(res)
	if err != nil {
		return nil, fmt.Errorf("encode CNI result of sandbox %q: %w", rec.SandboxID, err)
	}
	return raw, nil
}

// podResult picks the pod's addresses out of any CNI result: those of the interface in the sandbox, IPv4 and IPv6 at most
// once, in the plugin's order. Results without interfaces (specs before 0.3) give all their addresses.
func podResult(res types.Result, netNS string) (podnet.Result, error) {
	r, err := types100.GetResult(res)
	if err != nil {
		return podnet.Result{}, fmt.Errorf("read CNI result: %w", err)
	}
	raw, err := json.Marshal(r)
	if err != nil {
		return podnet.Result{}, fmt.Errorf("encode CNI result: %w", err)
	}
	out := podnet.Result{Raw: raw}
	var has4, has6 bool
	for _, c := range r.IPs {
		if c.Interface != nil && *c.Interface >= 0 && *c.Interface < len(r.Interfaces) {
			if i := r.Interfaces[*c.Interface]; i.Sandbox != netNS || i.Name != podInterface {
				continue
			}
		}
		ip, ok := netip.AddrFromSlice(c.Address.IP)
		if !ok {
			continue
		}
		ip = ip.Unmap()
		has := &has4
		if ip.Is6() {
			has = &has6
		}
		if !*has {
			*has = true
			out.IPs = append(out.IPs, ip)
		}
	}
	if len(out.IPs) == 0 {
		return podnet.Result{}, fmt.Errorf("read CNI result: no address for %s in %s", podInterface, netNS)
	}
	return out, nil
}
