package nftables

import (
	"fmt"

	"golang.org/x/sys/unix"
	"sigs.k8s.io/knftables"

	"github.com/reevehq/reeve/proxy/plan"
)

// The oldest kernel that works: concatenations with numgen in maps need 5.6, and fixes of them 5.13, as kube-proxy asks.
const kernelMajor, kernelMinor = 5, 13

// Open binds nft to a configuration's table. It fails, saying why, where the kernel is older than 5.13 or the nft command
// is missing, older than 1.0.1 or not allowed to work.
func Open(cfg Config) (*Table, error) {
	if err := kernelWorks(); err != nil {
		return nil, err
	}
	family := knftables.IPv4Family
	if cfg.Family == plan.IPv6 {
		family = knftables.IPv6Family
	}
	nft, err := knftables.New(family, cfg.Table)
	if err != nil {
		return nil, fmt.Errorf("open nftables for IPv%d: %w", cfg.Family, err)
	}
	keeper, err := knftables.New(family, cfg.keeper())
	if err != nil {
		return nil, fmt.Errorf("open nftables for IPv%d: %w", cfg.Family, err)
	}
	return &Table{Interface: nft, keeper: keeper, cfg: cfg, socket: &socket{}}, nil
}

func kernelWorks() error {
	var uts unix.Utsname
	if err := unix.Uname(&uts); err != nil {
		return fmt.Errorf("read the kernel's version: %w", err)
	}
	return releaseWorks(unix.ByteSliceToString(uts.Release[:]))
}

func releaseWorks(release string) error {
	var major, minor int
	if _, err := fmt.Sscanf(release, "%d.%d", &major, &minor); err != nil {
		return fmt.Errorf("read the kernel's version %q: %w", release, err)
	}
	if major > kernelMajor || (major == kernelMajor && minor >= kernelMinor) {
		return nil
	}
	return fmt.Errorf("kernel %s is too old for nftables mode: use %d.%d or later, or mode iptables", release, kernelMajor, kernelMinor)
}
