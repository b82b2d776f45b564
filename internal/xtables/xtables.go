package xtables

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/coreos/go-iptables/iptables"
)

// Family is an IP family's tables.
type Family int

// The families. Their String is the command's name.
const (
	IPv4 Family = 4
	IPv6 Family = 6
)

func (f Family) String() string {
	if f == IPv6 {
		return "ip6tables"
	}
	return "iptables"
}

// Flavor chooses the kernel interface behind the commands. The zero value takes what the host's `iptables` is.
type Flavor string

// Flavors that hosts install beside the default.
const (
	HostDefault Flavor = ""
	NFT         Flavor = "nft"
	Legacy      Flavor = "legacy"
)

const (
	// lockWait bounds the wait for /run/xtables.lock, which firewall managers hold for seconds while they reload.
	lockWait = 5 * time.Second
	// restoreTimeout bounds one restore or save. A legacy restore of 110,000 lines takes 0.6 s, iptables-nft 15 s.
	restoreTimeout = 60 * time.Second
)

// Handle is one family's iptables. Safe for concurrent use; the kernel or the xtables lock serialises changes.
type Handle struct {
	*iptables.IPTables
	family  Family
	restore string
	save    string
	legacy  bool
}

// New finds the commands of a family and flavour, and checks that the kernel has the family. The error names what is
// missing.
func New(family Family, flavor Flavor) (*Handle, error) {
	h, err := Find(family, flavor)
	if err != nil {
		return nil, err
	}
	// A kernel without the family answers here, and not at the first rule.
	if _, err := h.ListChains("filter"); err != nil && !isBusy(err) {
		return nil, fmt.Errorf("list %s filter table: %w", family, err)
	}
	return h, nil
}

// isBusy reports that another program held the lock for too long: nothing is known of the host yet.
func isBusy(err error) bool {
	var e *iptables.Error
	return errors.As(err, &e) && e.ExitStatus() == exitBusy
}

// exitBusy is iptables' exit code when it could not get its lock or the kernel's resources.
const exitBusy = 4

// Find is New without asking the kernel, which makes a legacy table that nobody uses by being asked.
func Find(family Family, flavor Flavor) (*Handle, error) {
	name := family.String()
	if flavor != HostDefault {
		name += "-" + string(flavor)
	}
	path, err := exec.LookPath(name)
	if err != nil {
		return nil, fmt.Errorf("find %s: %w (install the iptables package)", name, err)
	}
	proto := iptables.ProtocolIPv4
	if family == IPv6 {
		proto = iptables.ProtocolIPv6
	}
	ipt, err := iptables.New(iptables.IPFamily(proto), iptables.Path(path), iptables.Timeout(int(lockWait/time.Second)))
	if err != nil {
		return nil, fmt.Errorf("use %s: %w", path, err)
	}
	h := &Handle{IPTables: ipt, family: family}
	if h.restore, err = exec.LookPath(path + "-restore"); err != nil {
		return nil, fmt.Errorf("find %s-restore: %w (install the iptables package)", path, err)
	}
	if h.save, err = exec.LookPath(path + "-save"); err != nil {
		return nil, fmt.Errorf("find %s-save: %w (install the iptables package)", path, err)
	}
	version, err := exec.Command(path, "--version").Output()
	if err != nil {
		return nil, fmt.Errorf("run %s --version: %w", path, err)
	}
	h.legacy = !bytes.Contains(version, []byte("nf_tables"))
	return h, nil
}

// Family of the handle.
func (h *Handle) Family() Family { return h.family }

// Kind is the kernel interface behind the commands.
func (h *Handle) Kind() Flavor {
	if h.legacy {
		return Legacy
	}
	return NFT
}

// IsLegacy reports the kernel's old interface, where every change rewrites its whole table.
func (h *Handle) IsLegacy() bool { return h.legacy }

// Used reports that the kernel may have the table: a look at a legacy table that nobody uses would make it, and load its
// module, or fail where the kernel has not the family.
func (h *Handle) Used(table string) bool {
	if !h.legacy {
		return h.family.hasTable(table)
	}
	file := "/proc/thread-self/net/ip_tables_names"
	if h.family == IPv6 {
		file = "/proc/thread-self/net/ip6_tables_names"
	}
	names, err := os.ReadFile(file)
	if errors.Is(err, fs.ErrNotExist) {
		return false // the module is not loaded
	}
	return err != nil || slices.Contains(strings.Fields(string(names)), table)
}

// Restore feeds input to iptables-restore --noflush: chains that input declares are emptied and refilled, others stay.
// Each table commits as a whole or not at all.
func (h *Handle) Restore(ctx context.Context, input []byte) error {
	ctx, cancel := context.WithTimeout(ctx, restoreTimeout)
	defer cancel()
	cmd := exec.CommandContext(ctx, h.restore, "--noflush", "--wait", strconv.Itoa(int(lockWait/time.Second)))
	cmd.Stdin = bytes.NewReader(input)
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	if err := cmd.Run(); err != nil {
		return fmt.Errorf("run %s: %w: %s", h.restore, err, describe(stderr.String(), input))
	}
	return nil
}

// Save answers one table in iptables-save's format.
func (h *Handle) Save(ctx context.Context, table string) ([]byte, error) {
	ctx, cancel := context.WithTimeout(ctx, restoreTimeout)
	defer cancel()
	cmd := exec.CommandContext(ctx, h.save, "-t", table)
	var stdout, stderr bytes.Buffer
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	if err := cmd.Run(); err != nil {
		return nil, fmt.Errorf("run %s -t %s: %w: %s", h.save, table, err, strings.TrimSpace(stderr.String()))
	}
	return stdout.Bytes(), nil
}

// describe adds the offending line to a restore's error, which names it by number only.
func describe(stderr string, input []byte) string {
	stderr = strings.TrimSpace(stderr)
	_, rest, ok := strings.Cut(stderr, "line")
	if !ok {
		return stderr
	}
	digits := strings.TrimLeft(rest, " :")
	end := strings.IndexFunc(digits, func(r rune) bool { return r < '0' || r > '9' })
	if end < 0 {
		end = len(digits)
	}
	n, err := strconv.Atoi(digits[:end])
	if err != nil || n < 1 {
		return stderr
	}
	lines := strings.Split(string(input), "\n")
	if n > len(lines) {
		return stderr
	}
	return fmt.Sprintf("%s: %q", stderr, lines[n-1])
}

// DeleteJump removes every copy of the rule. A missing rule, target chain or table is no error.
func (h *Handle) DeleteJump(j Jump) error {
	for {
		err := h.Delete(j.Table, j.Chain, strings.Fields(j.Rule)...)
		if err == nil {
			continue
		}
		if isGone(err) {
			return nil
		}
		return fmt.Errorf("delete rule %q from chain %s of %s %s: %w", j.Rule, j.Chain, h.family, j.Table, err)
	}
}

// isGone knows the several ways in which the two flavours say that what should be deleted is not there.
func isGone(err error) bool {
	var e *iptables.Error
	if !errors.As(err, &e) {
		return false
	}
	if e.IsNotExist() {
		return true
	}
	for _, phrase := range []string{
		"does a matching rule exist", "No chain/target/match by that name", "No such file or directory",
		"Couldn't load target", "does not exist",
	} {
		if strings.Contains(e.Error(), phrase) {
			return true
		}
	}
	return false
}

// DeleteChains empties and removes, in one transaction a table, every chain of the table for which mine answers true.
// Jumps from others' chains must be gone before.
func (h *Handle) DeleteChains(ctx context.Context, table string, mine func(chain string) bool) error {
	chains, err := h.ListChains(table)
	if err != nil {
		return fmt.Errorf("list chains of %s %s: %w", h.family, table, err)
	}
	var declare, remove strings.Builder
	for _, c := range chains {
		if mine(c) {
			fmt.Fprintf(&declare, ":%s - [0:0]\n", c)
			fmt.Fprintf(&remove, "-X %s\n", c)
		}
	}
	if declare.Len() == 0 {
		return nil
	}
	input := "*" + table + "\n" + declare.String() + remove.String() + "COMMIT\n"
	if err := h.Restore(ctx, []byte(input)); err != nil {
		return fmt.Errorf("delete chains of %s %s: %w", h.family, table, err)
	}
	return nil
}
