package ipvs

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"strings"
	"time"

	"github.com/moby/ipvs"
	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"

	"github.com/reevehq/reeve/internal/xtables"
	"github.com/reevehq/reeve/proxy/plan"
)

const (
	// modprobeTimeout bounds the loading of a module.
	modprobeTimeout = 10 * time.Second
	// socketTimeout bounds each answer of the kernel.
	socketTimeout = 10 * time.Second
)

// Supported says what this kernel lacks for ipvs mode, or nil. It loads the modules ip_vs and dummy where the host has
// them.
func Supported() error {
	var missing []error
	if !hasIPVS() {
		modprobe("ip_vs")
		if !hasIPVS() {
			missing = append(missing, errors.New("module ip_vs"))
		}
	}
	if _, err := os.Stat("/sys/module/dummy"); err != nil {
		modprobe("dummy")
	}
	if len(missing) > 0 {
		var u unix.Utsname
		_ = unix.Uname(&u)
		return fmt.Errorf("kernel %s lacks %w (ipvs mode needs modules ip_vs, ip_set and dummy; without them use --proxy-mode=nftables or iptables)",
			unix.ByteSliceToString(u.Release[:]), errors.Join(missing...))
	}
	return nil
}

func hasIPVS() bool {
	_, err := netlink.GenlFamilyGet("IPVS")
	return err == nil
}

func modprobe(module string) {
	ctx, cancel := context.WithTimeout(context.Background(), modprobeTimeout)
	defer cancel()
	_ = exec.CommandContext(ctx, "modprobe", "-q", module).Run()
}

// Open opens the kernel's IPVS for a family. The error names what the host lacks.
func Open(family plan.Family, xt *xtables.Handle) (*Kernel, error) {
	if err := Supported(); err != nil {
		return nil, err
	}
	vs, err := ipvs.New("")
	if err != nil {
		return nil, fmt.Errorf("open the kernel's IPVS: %w", err)
	}
	h, err := netlink.NewHandle(unix.NETLINK_ROUTE, unix.NETLINK_NETFILTER)
	if err != nil {
		vs.Close()
		return nil, fmt.Errorf("open netlink: %w", err)
	}
	if err := h.SetSocketTimeout(socketTimeout); err != nil {
		vs.Close()
		h.Close()
		return nil, fmt.Errorf("open netlink: %w", err)
	}
	sock, err := nl.Subscribe(unix.NETLINK_NETFILTER)
	if err != nil {
		vs.Close()
		h.Close()
		return nil, fmt.Errorf("open ipset: %w", err)
	}
	tv := unix.NsecToTimeval(socketTimeout.Nanoseconds())
	_ = sock.SetReceiveTimeout(&tv)
	return &Kernel{Handle: xt, family: family, vs: vs, nl: h, sets: setConn{sock}}, nil
}

// firstLabel is the label that goes with mark bit 0, of the 128 that a connection may bear.
const firstLabel = 96

// EnableLabels sets c.Label where kernel and iptables have connection labels, else it says what is missing. Rules tell: a
// chain is made and removed again in one transaction.
func (k *Kernel) EnableLabels(c *Config) error {
	c.Label = firstLabel + c.MarkBit
	probe := c.chain("PROBE")
	ctx, cancel := context.WithTimeout(context.Background(), modprobeTimeout)
	defer cancel()
	err := k.Restore(ctx, fmt.Appendf(nil, "*mangle\n:%s - [0:0]\n-A %[1]s %s\n-F %[1]s\n-X %[1]s\nCOMMIT\n", probe, c.label()))
	if err != nil && !strings.Contains(err.Error(), "xtables lock") { // a held lock says nothing of the kernel
		c.Label = 0
		return fmt.Errorf("label connections to Services (which needs the kernel module xt_connlabel): %w", err)
	}
	return nil
}

// Prepare sets IPVS's parameters. Without conntrack nothing could be masqueraded; the others make connections leave
// servers that are gone. strictARP keeps other devices from answering for the addresses of Services, which load balancers
// that speak ARP themselves need.
func Prepare(strictARP bool, set func(path, value string) error) error {
	values := [][2]string{
		{"net/ipv4/vs/conntrack", "1"},
		{"net/ipv4/vs/expire_nodest_conn", "1"},
		{"net/ipv4/vs/expire_quiescent_template", "1"},
	}
	if strictARP {
		values = append(values, [2]string{"net/ipv4/conf/all/arp_ignore", "1"}, [2]string{"net/ipv4/conf/all/arp_announce", "2"})
	}
	for _, v := range values {
		if err := set(v[0], v[1]); err != nil {
			return err
		}
	}
	// Before 5.9 a reused client port costs a second with conntrack, or is sent to a server that is gone.
	if release, err := os.ReadFile("/proc/sys/kernel/osrelease"); err == nil && olderThan(strings.TrimSpace(string(release)), 5, 9) {
		return set("net/ipv4/vs/conn_reuse_mode", "0")
	}
	return nil
}

func olderThan(release string, major, minor int) bool {
	var a, b int
	if _, err := fmt.Sscanf(release, "%d.%d", &a, &b); err != nil {
		return false
	}
	return a < major || (a == major && b < minor)
}
