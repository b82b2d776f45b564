package kubeproxyconfig

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"strconv"
	"strings"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	kubeproxy "k8s.io/kube-proxy/config/v1alpha1"
	"k8s.io/utils/ptr"

	"github.com/reevehq/reeve/internal/dropin"
)

// Kind is what the configuration file must be of.
var Kind = dropin.Kind{APIVersion: "kubeproxy.config.k8s.io/v1alpha1", Kind: "KubeProxyConfiguration"}

// The values of detectLocalMode.
const (
	localClusterCIDR         kubeproxy.LocalMode = "ClusterCIDR"
	localNodeCIDR            kubeproxy.LocalMode = "NodeCIDR"
	localBridgeInterface     kubeproxy.LocalMode = "BridgeInterface"
	localInterfaceNamePrefix kubeproxy.LocalMode = "InterfaceNamePrefix"
)

// Loaded is a complete and valid configuration.
type Loaded struct {
	kubeproxy.KubeProxyConfiguration
	// Missing is what is set and not implemented, Told what else is to be told once: deprecated flags, flags that a file
	// keeps from having an effect, fields that nobody knows.
	Missing []dropin.Finding
	Told    []string
}

// Load puts upstream's defaults and the file of --config together or, without one, defaults and flags. All errors are
// reported, each names the file or flag, and the field. Unknown fields are told of and left out, as upstream does for this
// alpha configuration.
func Load(flags *dropin.Flags) (*Loaded, error) {
	doc := dropin.Document{}
	l := &Loaded{}
	var err error
	if path := flags.Value("config"); path != "" {
		var loose []error
		if doc, loose, err = dropin.ReadLenient(path, Kind, &kubeproxy.KubeProxyConfiguration{}); err != nil {
			return nil, fmt.Errorf("--config: %w", err)
		}
		for _, e := range loose {
			l.Told = append(l.Told, "--config: "+e.Error())
		}
		flags.Apply(doc, alwaysFlags...)
		if ignored := flags.Ignored(alwaysFlags...); len(ignored) > 0 {
			l.Told = append(l.Told, strings.Join(ignored, ", ")+": without effect beside --config")
		}
	} else {
		flags.Apply(doc)
		// Upstream has one flag for both.
		for _, field := range []string{"masqueradeAll", "masqueradeBit"} {
			if v := doc.Get("iptables." + field); v != nil {
				doc.Set("nftables."+field, v, false)
			}
		}
	}
	if err := doc.Decode(&l.KubeProxyConfiguration); err != nil {
		return nil, err
	}
	setDefaults(&l.KubeProxyConfiguration)
	missing, bad := Fields.Review(doc)
	more, badFlags, deprecated := flags.Review()
	l.Missing, l.Told = append(missing, more...), append(l.Told, deprecated...)
	var all []error
	for _, f := range append(bad, badFlags...) {
		all = append(all, fmt.Errorf("%s: %q is refused: %s", f.Path, f.Value, f.Note))
	}
	return l, errors.Join(append(all, validate(&l.KubeProxyConfiguration))...)
}

func setDefaults(c *kubeproxy.KubeProxyConfiguration) {
	if c.BindAddress == "" {
		c.BindAddress = "0.0.0.0"
	}
	all, own := "0.0.0.0", "127.0.0.1"
	if strings.Contains(c.BindAddress, ":") {
		all, own = "::", "::1"
	}
	c.HealthzBindAddress = withPort(c.HealthzBindAddress, all, 10256)
	c.MetricsBindAddress = withPort(c.MetricsBindAddress, own, 10249)
	if c.Mode == "" {
		c.Mode = "iptables"
	}
	if c.DetectLocalMode == "" {
		c.DetectLocalMode = localClusterCIDR
	}
	if c.Conntrack.TCPEstablishedTimeout == nil {
		c.Conntrack.TCPEstablishedTimeout = &metav1.Duration{Duration: 24 * time.Hour}
	}
	if c.Conntrack.TCPCloseWaitTimeout == nil {
		c.Conntrack.TCPCloseWaitTimeout = &metav1.Duration{Duration: time.Hour}
	}
	if c.OOMScoreAdj == nil {
		c.OOMScoreAdj = ptr.To[int32](-999)
	}
	if c.ClientConnection.QPS == 0 {
		c.ClientConnection.QPS = 5
	}
	if c.ClientConnection.Burst == 0 {
		c.ClientConnection.Burst = 10
	}
	if c.ClientConnection.ContentType == "" {
		c.ClientConnection.ContentType = "application/vnd.kubernetes.protobuf"
	}
	if c.Logging.Format == "" {
		c.Logging.Format = "text"
	}
}

// withPort completes an address that lacks its port, as upstream; an empty one is all of the default.
func withPort(address, host string, port int) string {
	if address == "" {
		return net.JoinHostPort(host, strconv.Itoa(port))
	}
	if _, err := netip.ParseAddr(address); err == nil {
		return net.JoinHostPort(address, strconv.Itoa(port))
	}
	return address
}

// validate reports every field that cannot work.
func validate(c *kubeproxy.KubeProxyConfiguration) error {
	var errs []error
	bad := func(field, format string, args ...any) {
		errs = append(errs, fmt.Errorf("%s: %s", field, fmt.Sprintf(format, args...)))
	}
	if _, err := netip.ParseAddr(c.BindAddress); err != nil {
		bad("bindAddress", "%q is not an IP address", c.BindAddress)
	}
	for field, s := range map[string]string{"healthzBindAddress": c.HealthzBindAddress, "metricsBindAddress": c.MetricsBindAddress} {
		if _, err := netip.ParseAddrPort(s); err != nil {
			bad(field, "%q is not of the form address:port", s)
		}
	}
	if !slices.Contains([]kubeproxy.ProxyMode{"iptables", "nftables", "ipvs", "auto"}, c.Mode) {
		bad("mode", "%q is unknown; use iptables, nftables or ipvs", c.Mode)
	}
	switch c.DetectLocalMode {
	case localClusterCIDR, localNodeCIDR:
	case localBridgeInterface:
		if c.DetectLocal.BridgeInterface == "" {
			bad("detectLocal.bridgeInterface", "empty; detectLocalMode %s needs the bridge's name", c.DetectLocalMode)
		}
	case localInterfaceNamePrefix:
		if c.DetectLocal.InterfaceNamePrefix == "" {
			bad("detectLocal.interfaceNamePrefix", "empty; detectLocalMode %s needs the prefix", c.DetectLocalMode)
		}
	default:
		bad("detectLocalMode", "%q is unknown; use ClusterCIDR, NodeCIDR, BridgeInterface or InterfaceNamePrefix", c.DetectLocalMode)
	}
	if _, err := CIDRs(c.ClusterCIDR); err != nil {
		bad("clusterCIDR", "%v", err)
	}
	if !slices.Equal(c.NodePortAddresses, []string{"primary"}) {
		if _, err := CIDRs(strings.Join(c.NodePortAddresses, ",")); err != nil {
			bad("nodePortAddresses", "%v; or the one word primary", err)
		}
	}
	if _, err := CIDRs(strings.Join(c.IPVS.ExcludeCIDRs, ",")); err != nil {
		bad("ipvs.excludeCIDRs", "%v", err)
	}
	for field, b := range map[string]*int32{"iptables.masqueradeBit": c.IPTables.MasqueradeBit, "nftables.masqueradeBit": c.NFTables.MasqueradeBit} {
		if b != nil && (*b < 0 || *b > 31) {
			bad(field, "%d is not within 0 to 31", *b)
		}
	}
	if a := *c.OOMScoreAdj; a < -1000 || a > 1000 {
		bad("oomScoreAdj", "%d is not within -1000 to 1000", a)
	}
	if !slices.Contains([]string{"text", "json"}, c.Logging.Format) {
		bad("logging.format", "%q is unknown; use text or json", c.Logging.Format)
	}
	slices.SortFunc(errs, func(a, b error) int { return strings.Compare(a.Error(), b.Error()) })
	return errors.Join(errs...)
}

// CIDRs reads a list separated by commas; empty is none.
func CIDRs(s string) ([]netip.Prefix, error) {
	var out []netip.Prefix
	for part := range strings.SplitSeq(s, ",") {
		if part = strings.TrimSpace(part); part == "" {
			continue
		}
		p, err := netip.ParsePrefix(part)
		if err != nil {
			return nil, fmt.Errorf("%q is not a CIDR such as 10.244.0.0/16", part)
		}
		out = append(out, p.Masked())
	}
	return out, nil
}
