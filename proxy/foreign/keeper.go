package foreign

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/google/nftables"
	"golang.org/x/sys/unix"

	"github.com/reevehq/reeve/internal/nfnl"
	"github.com/reevehq/reeve/proxy/foreign/firewalld"
)

// keepTimeout bounds one look with all that it writes.
const keepTimeout = 30 * time.Second

// Trouble is a firewall that drops pods' or Services' traffic and could not be mended.
type Trouble struct {
	// Where names the table and chain, as "inet firewalld filter_FORWARD".
	Where string
	Err   error

	// firewalld tells that the table is firewalld's, hook what drops there, and partly what of it does not pass, where most does.
	firewalld bool
	hook      hook
	partly    string
}

func (t Trouble) String() string {
	if t.partly != "" {
		return t.Where + ": " + t.partly
	}
	return fmt.Sprintf("%s drops by default what pods and Services send, and no accept rule can be added there: %v", t.Where, t.Err)
}

// Keeper keeps our accept rules in others' firewalls. Not safe for concurrent use.
type Keeper struct {
	cfg Config
	// written is what a chain of ours holds as far as this process knows, by where it is.
	written   map[string]string
	firewalld *firewalld.Client
}

// NewKeeper that has written nothing yet.
func NewKeeper(cfg Config) *Keeper { return &Keeper{cfg: cfg, written: map[string]string{}} }

// AskFirewalld lets the keeper ask a running firewalld too, and not only write rules.
func (k *Keeper) AskFirewalld(c *firewalld.Client) { k.firewalld = c }

// SetConfig replaces whose traffic passes.
func (k *Keeper) SetConfig(c Config) { k.cfg = c }

// Keep looks at every firewall of the host, adds our accept rules where one drops by default, and removes them where none
// does any more. ports are health check node ports that must be reachable. It answers what it changed, in words, and what it
// could not mend.
func (k *Keeper) Keep(ctx context.Context, ports []uint16) (changed []string, troubles []Trouble, err error) {
	ctx, cancel := context.WithTimeout(ctx, keepTimeout)
	defer cancel()
	conn, err := nftables.New()
	if err != nil {
		return nil, nil, fmt.Errorf("open nftables: %w", err)
	}
	c1, t1, err := k.keepTables(ctx, conn, ports)
	if err != nil {
		return c1, t1, err
	}
	c2, t2, err := k.keepIPTables(ctx, ports)
	c3, troubles, failed := k.keepFirewalld(ctx, ports, append(t1, t2...))
	return slices.Concat(c1, c2, c3), troubles, errors.Join(err, failed)
}

// Listen calls changed when somebody changed a firewall on the way of forwarded or incoming packets, or may have. It returns
// nil when ctx ends.
func (k *Keeper) Listen(ctx context.Context, changed func()) error {
	cfg := k.cfg
	return nfnl.Listen(ctx, func(m nfnl.Message) {
		if concerns(m, cfg) {
			changed()
		}
	}, changed)
}

// concerns reports that a message may tell of another firewall, or of our chains in one. Rules of ours are many where the
// Services are iptables rules; only chains that a firewall hooks in are of interest there.
func concerns(m nfnl.Message, cfg Config) bool {
	var chainKind uint16
	switch m.Kind {
	case nfnl.Type(unix.NFT_MSG_NEWTABLE), nfnl.Type(unix.NFT_MSG_DELTABLE):
	case nfnl.Type(unix.NFT_MSG_NEWCHAIN), nfnl.Type(unix.NFT_MSG_DELCHAIN):
		chainKind = unix.NFTA_CHAIN_NAME
	case nfnl.Type(unix.NFT_MSG_NEWRULE), nfnl.Type(unix.NFT_MSG_DELRULE):
		chainKind = unix.NFTA_RULE_CHAIN
	default:
		return false
	}
	family, _ := m.Family()
	table := nfnl.String(m.Find(unix.NFTA_RULE_TABLE)) // the first attribute of them all
	if table == cfg.Table || (family != unix.NFPROTO_IPV4 && family != unix.NFPROTO_IPV6 && family != unix.NFPROTO_INET) {
		return false
	}
	if !isIPTables(family, table) {
		return true
	}
	if table != "filter" || chainKind == 0 {
		return table == "filter"
	}
	switch nfnl.String(m.Find(chainKind)) {
	case "FORWARD", "INPUT", dockerUser, "FORWARD" + firewalldBehind, "INPUT" + firewalldBehind, cfg.xtChain(forward), cfg.xtChain(input):
		return true
	}
	return false
}

// isIPTables reports a table that iptables-nft makes: nft may not be used on it.
func isIPTables(family uint8, table string) bool {
	if family != unix.NFPROTO_IPV4 && family != unix.NFPROTO_IPV6 {
		return false
	}
	switch table {
	case "filter", "nat", "mangle", "raw", "security":
		return true
	}
	return false
}
