package proxy

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"runtime"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/reevehq/reeve/internal/logkey"
)

const (
	// conntrackPerCore and conntrackMin size the conntrack table as kube-proxy does: 32 Ki a core, at least 128 Ki.
	conntrackPerCore = 32 * 1024
	conntrackMin     = 128 * 1024

	routeLocalnet = "net/ipv4/conf/all/route_localnet"
)

// prepareHost sets the kernel parameters that Services need. Forwarding is a must; a conntrack table that cannot be
// resized (a container, a network namespace) is only said.
func prepareHost(cfg Config) error {
	if err := setSysctl("net/ipv4/ip_forward", "1"); err != nil {
		return err
	}
	prepareConntrack(cfg)
	return nil
}

// prepareConntrack sizes connection tracking. What the host does not allow is said and left.
func prepareConntrack(cfg Config) {
	set := func(path, value string) {
		err := setSysctl(path, value)
		switch {
		case errors.Is(err, fs.ErrPermission), errors.Is(err, syscall.EROFS):
			cfg.Logger.Info("Left a conntrack parameter to the host", logkey.Path, path, "want", value)
		case err != nil:
			cfg.Logger.Warn("Failed to set a conntrack parameter", logkey.Err, err)
		}
	}
	perCore, least := int32(conntrackPerCore), int32(conntrackMin)
	if p := cfg.Conntrack.MaxPerCore; p != nil {
		perCore = *p
	}
	if p := cfg.Conntrack.Min; p != nil {
		least = *p
	}
	if perCore > 0 {
		want := max(int(least), int(perCore)*runtime.NumCPU())
		const table = "net/netfilter/nf_conntrack_max"
		if have, err := readSysctl(table); err == nil && have < want {
			set(table, strconv.Itoa(want))
		}
	}
	for path, d := range map[string]*time.Duration{
		"net/netfilter/nf_conntrack_tcp_timeout_established": cfg.Conntrack.TCPEstablishedTimeout,
		"net/netfilter/nf_conntrack_tcp_timeout_close_wait":  cfg.Conntrack.TCPCloseWaitTimeout,
		"net/netfilter/nf_conntrack_udp_timeout":             cfg.Conntrack.UDPTimeout,
		"net/netfilter/nf_conntrack_udp_timeout_stream":      cfg.Conntrack.UDPStreamTimeout,
	} {
		if d != nil && *d > 0 {
			set(path, strconv.Itoa(int(d.Seconds())))
		}
	}
	if cfg.Conntrack.TCPBeLiberal {
		set("net/netfilter/nf_conntrack_tcp_be_liberal", "1")
	}
}

// openLoopback lets packets to 127.0.0.0/8 be routed, which node ports on 127.0.0.1 need. Only after the rules that keep
// neighbours from there are in place.
func openLoopback() error { return setSysctl(routeLocalnet, "1") }

// closeLoopback undoes openLoopback where rules of ours that guard it are found: they are about to go. A host without such
// rules has the parameter from somebody else, who keeps it.
func closeLoopback(ctx context.Context, cfg Config) error {
	if on, err := readSysctl(routeLocalnet); err != nil || on == 0 {
		return nil
	}
	for _, m := range modes {
		if m.guardsLoopback != nil && m.guardsLoopback(ctx, cfg) {
			return setSysctl(routeLocalnet, "0")
		}
	}
	return nil
}

func readSysctl(path string) (int, error) {
	data, err := os.ReadFile("/proc/sys/" + path)
	if err != nil {
		return 0, err
	}
	return strconv.Atoi(strings.TrimSpace(string(data)))
}

// setSysctl writes a kernel parameter unless it has that value already.
func setSysctl(path, value string) error {
	file := "/proc/sys/" + path
	if old, err := os.ReadFile(file); err == nil && strings.TrimSpace(string(old)) == value {
		return nil
	}
	if err := os.WriteFile(file, []byte(value), 0); err != nil {
		return fmt.Errorf("set %s to %s: %w", strings.ReplaceAll(path, "/", "."), value, err)
	}
	return nil
}
