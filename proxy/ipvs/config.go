package ipvs

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"

	"golang.org/x/sys/unix"
	corev1 "k8s.io/api/core/v1"

	"github.com/reevehq/reeve/proxy/plan"
)

// Device carries the addresses of Services.
const Device = "reeve-ipvs0"

// DefaultScheduler gives each endpoint its turn.
const DefaultScheduler = "rr"

// schedulers of the kernel that mean something for endpoints of equal weight, by the names of ipvsadm.
var schedulers = []string{"rr", "wrr", "lc", "wlc", "lblc", "lblcr", "dh", "sh", "mh", "sed", "nq", "fo", "ovf"}

// CheckScheduler names what may be chosen when s cannot. Whether the kernel has it shows at the first Service.
func CheckScheduler(s string) error {
	if !slices.Contains(schedulers, s) {
		return fmt.Errorf("IPVS scheduler %q is unknown: use one of %s", s, strings.Join(schedulers, ", "))
	}
	return nil
}

// Config shapes what a backend makes.
type Config struct {
	Facts plan.Facts
	// Prefix begins the names of chains, "<Prefix>_IPVS-…", none of iptables mode's, and of sets where it is not KUBE.
	Prefix string
	// MarkBit (0–31) of the packet mark asks for masquerading; it is clear again when the packet leaves.
	MarkBit int
	Family  plan.Family
	// Scheduler is the kernel's name of how connections are spread. Empty: DefaultScheduler.
	Scheduler string
	// Label is what connections to Services bear (connlabel), by which others' firewalls let them in. 0: none.
	Label int
	// Exclude are addresses whose virtual services are never taken for ours.
	Exclude []netip.Prefix
}

func (c Config) scheduler() string {
	if c.Scheduler == "" {
		return DefaultScheduler
	}
	return c.Scheduler
}

// Flags of virtual services, as linux/ip_vs.h has them.
const (
	flagPersistent = 0x0001
	flagFallback   = 0x0008 // sh and mh: take another server when the hashed one has weight 0, as one that drains has
	flagsOurs      = flagPersistent | 0x0008 | 0x0010 | 0x0020
)

func (c Config) flags(affinity uint32) uint32 {
	var f uint32
	if affinity > 0 {
		f |= flagPersistent
	}
	if s := c.scheduler(); s == "sh" || s == "mh" {
		f |= flagFallback
	}
	return f
}

func (c Config) chain(name string) string { return c.Prefix + "_IPVS-" + name }

func protocol(p corev1.Protocol) uint8 {
	switch p {
	case corev1.ProtocolUDP:
		return unix.IPPROTO_UDP
	case corev1.ProtocolSCTP:
		return unix.IPPROTO_SCTP
	}
	return unix.IPPROTO_TCP
}

func protocolName(p uint8) string {
	switch p {
	case unix.IPPROTO_UDP:
		return "udp"
	case unix.IPPROTO_SCTP:
		return "sctp"
	}
	return "tcp"
}
