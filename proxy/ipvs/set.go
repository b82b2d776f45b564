package ipvs

import (
	"net/netip"
	"strings"

	"github.com/reevehq/reeve/proxy/plan"
)

// setID names an ipset.
type setID uint8

// The sets that hold frontends come first: their bits make a setMask.
const (
	setServices  setID = iota // every virtual service: what is let in, and what is ours
	setCluster                // ClusterIPs: masqueraded for clients from outside the cluster
	setMasq                   // external frontends: masqueraded for everybody
	setLocal                  // external frontends of policy Local: clients from inside go to the ClusterIP
	setDrop                   // frontends that have endpoints, but none that policy allows here
	setFirewall               // frontends with source ranges
	setAllow                  // … and who may use them
	setAddresses              // the addresses on the device
	setHairpin                // an endpoint as its own client
	setCount
)

const frontendSets = setFirewall + 1

type setMask uint8

func (m setMask) has(s setID) bool { return m&(1<<s) != 0 }

var setNames = [setCount]string{
	"services", "cluster", "masquerade", "local", "drop", "firewall", "firewall-allow", "addresses", "hairpin",
}

var setTypes = [setCount]string{
	"hash:ip,port", "hash:ip,port", "hash:ip,port", "hash:ip,port", "hash:ip,port", "hash:ip,port",
	"hash:ip,port,net", "hash:ip", "hash:ip,port,ip",
}

// maxElements bounds a set; the kernel refuses more. Memory is taken as it fills.
const maxElements = 1 << 20

// set is the set's name, at most 31 characters.
func (c Config) set(s setID) string {
	name := "reeve-"
	if c.Prefix != "KUBE" {
		name += strings.ToLower(c.Prefix) + "-"
	}
	if c.Family == plan.IPv6 {
		name += "6-"
	}
	return name + setNames[s]
}

// entry is an element of a set; what its set's type does not have is zero.
type entry struct {
	frontend
	other netip.Prefix // setAllow: the clients; setHairpin: the endpoint again
}

// frontend is where clients connect to.
type frontend struct {
	addr  netip.Addr
	port  uint16
	proto uint8
}

func (f frontend) String() string {
	return netip.AddrPortFrom(f.addr, f.port).String() + "/" + protocolName(f.proto)
}

func hostPrefix(a netip.Addr) netip.Prefix { return netip.PrefixFrom(a, a.BitLen()) }
