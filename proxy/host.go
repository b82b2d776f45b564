package proxy

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"runtime"
	"strconv"
	"strings"
	"syscall"

	"github.com/reevehq/reeve/internal/logkey"
)

const (
	// conntrackPerCore and conntrackMin size the conntrack table as kube-proxy does: 32 Ki a core, at least 128 Ki.
	conntrackPerCore = 32 * 1024
	conntrackMin     = 128 * 1024
)

// prepareHost sets the kernel parameters that Services need. Forwarding is a must; a conntrack table that cannot be
// resized (a container, a network namespace) is only said.
func prepareHost(cfg Config) error {
	if err := setSysctl("net/ipv4/ip_forward", "1"); err != nil {
		return err
	}
	if cfg.LocalhostNodePorts {
		if err := setSysctl("net/ipv4/conf/all/route_localnet", "1"); err != nil {
			return err
		}
	}
	want := max(conntrackMin, conntrackPerCore*runtime.NumCPU())
	const table = "net/netfilter/nf_conntrack_max"
	if have, err := readSysctl(table); err == nil && have < want {
		err := setSysctl(table, strconv.Itoa(want))
		switch {
		case errors.Is(err, fs.ErrPermission), errors.Is(err, syscall.EROFS):
			cfg.Logger.Info("Left the conntrack table's size to the host", "have", have, "want", want)
		case err != nil:
			cfg.Logger.Warn("Failed to size the conntrack table", logkey.Err, err)
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
