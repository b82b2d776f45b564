package main

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/spf13/pflag"
	v1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/util/validation"
)

// Networks that --network names.
const (
	networkBuiltin = "builtin"
	networkCNI     = "cni"
)

// nodeOptions are the flags of everything that runs on a node: agent, runtime, network, proxy, DNS. `reeve server` has
// them too and hands the changed ones on.
type nodeOptions struct {
	NodeName string
	NodeIPs  []string

	RootDir      string
	PodLogsDir   string
	StaticPods   string
	CgroupRoot   string
	CgroupDriver string
	MaxPods      int
	NodeLabels   map[string]string
	NodeTaints   []string

	ContainerdAddress string
	RuntimeEndpoint   string
	RuntimeHandler    string
	CRISocket         string
	RegistryHosts     string
	CDISpecDirs       []string

	Network    string
	CNIConfDir string
	CNIBinDirs []string

	ProxyMode     string
	IPVSScheduler string
	IPVSStrictARP bool
	ClusterCIDR   string
	ServiceCIDR   string
	NodePorts     string

	ClusterDNS    []string
	ClusterDomain string
	ResolvConf    string

	KubeletAddress string
	KubeletPort    int
	HealthzPort    int
	ProxyHealthz   string
	ProxyMetrics   string

	Resources resourceOptions
}

// addFlags declares the flags. withNetwork tells the default of --network, which depends on whose control plane it is.
func (o *nodeOptions) addFlags(f *pflag.FlagSet, network string) {
	f.StringVar(&o.NodeName, "node-name", "", "name of the Node object (default: the host's name, in lower case)")
	f.StringSliceVar(&o.NodeIPs, "node-ip", nil, "address of this node, at most one a family (default: that of the interface with the default route)")
	o.addRuntimeFlags(f, network)
	o.Resources.addFlags(f)
	f.StringVar(&o.CRISocket, "cri-socket", "", "where the native runtime is served as CRI v1 (default: <data-dir>/agent/cri.sock)")
	f.StringVar(&o.RuntimeEndpoint, "container-runtime-endpoint", "", "use this CRI socket (unix://…) in place of the native runtime")
	f.StringVar(&o.RootDir, "root-dir", "/var/lib/kubelet", "folder of pods' files; another one for a second instance on the host")
	f.StringVar(&o.PodLogsDir, "pod-logs-dir", "/var/log/pods", "folder of containers' logs; another one for a second instance on the host")
	f.StringVar(&o.StaticPods, "static-pods", "", "folder of static pods' manifests, watched (default: <data-dir>/agent/static-pods)")
	f.IntVar(&o.MaxPods, "max-pods", 110, "most pods on this node")
	f.StringToStringVar(&o.NodeLabels, "node-labels", nil, "labels to register the node with, key=value,…")
	f.StringSliceVar(&o.NodeTaints, "register-with-taints", nil, "taints to register the node with, key[=value]:effect,…")

	f.StringVar(&o.ProxyMode, "proxy-mode", "iptables", "how Services are programmed: iptables, nftables, ipvs, auto, or none to leave them to another proxy")
	f.StringVar(&o.IPVSScheduler, "ipvs-scheduler", "", "how --proxy-mode=ipvs spreads connections: rr, wrr, lc, wlc, sh, mh, … (default: rr)")
	f.BoolVar(&o.IPVSStrictARP, "ipvs-strict-arp", false, "with --proxy-mode=ipvs, answer ARP for Services' addresses on no other device")
	f.StringVar(&o.ClusterCIDR, "cluster-cidr", "10.244.0.0/16", "range of all pods' addresses, one a family, comma-separated")
	f.StringVar(&o.ServiceCIDR, "service-cluster-ip-range", "10.96.0.0/16", "range of Services' addresses, one a family, comma-separated")
	f.StringVar(&o.NodePorts, "service-node-port-range", "30000-32767", "ports of NodePort Services")

	f.StringSliceVar(&o.ClusterDNS, "cluster-dns", nil, "address of the cluster DNS (default: the tenth of --service-cluster-ip-range)")
	f.StringVar(&o.ClusterDomain, "cluster-domain", "cluster.local", "DNS domain of the cluster")
	f.StringVar(&o.ResolvConf, "resolv-conf", "", "the node's own resolver configuration (default: /etc/resolv.conf, or systemd-resolved's where that is its stub)")

	f.StringVar(&o.KubeletAddress, "kubelet-address", "", "address of the agent's server (default: all)")
	f.IntVar(&o.KubeletPort, "kubelet-port", 10250, "port of the agent's server")
	f.IntVar(&o.HealthzPort, "healthz-port", 10248, "port of the agent's plain healthz on loopback; 0 turns it off")
	f.StringVar(&o.ProxyHealthz, "proxy-healthz-bind-address", "0.0.0.0:10256", "address of the proxy's health check; empty turns it off")
	f.StringVar(&o.ProxyMetrics, "proxy-metrics-bind-address", "127.0.0.1:10249", "address of the proxy's metrics and mode; empty turns it off")
}

// addRuntimeFlags declares the flags of the runtime and the pod network alone, which `reeve cri` has too.
func (o *nodeOptions) addRuntimeFlags(f *pflag.FlagSet, network string) {
	f.StringVar(&o.CgroupRoot, "cgroup-root", "/", "cgroup under which the pods' cgroups are made")
	f.StringVar(&o.CgroupDriver, "cgroup-driver", "", "cgroupfs or systemd (default: systemd where it runs and cgroup v2 is mounted, else cgroupfs)")
	f.StringVar(&o.ContainerdAddress, "containerd-address", "", "socket of containerd (default: the host's running one, else a private one is started)")
	f.StringVar(&o.RuntimeHandler, "default-runtime", "runc", "OCI runtime of pods that name no RuntimeClass: runc, crun, or a shim's name")
	f.StringVar(&o.RegistryHosts, "registry-hosts-dir", "/etc/containerd/certs.d", "folder of containerd's registry hosts files")
	f.StringSliceVar(&o.CDISpecDirs, "cdi-spec-dirs", []string{"/etc/cdi", "/var/run/cdi"}, "folders of the Container Device Interface's specifications, a later one wins; empty for none")
	f.StringVar(&o.Network, "network", network, "builtin (routed, set up by reeve) or cni (conflists of --cni-conf-dir)")
	f.StringVar(&o.CNIConfDir, "cni-conf-dir", "/etc/cni/net.d", "folder of CNI configuration, watched; for --network=cni")
	f.StringSliceVar(&o.CNIBinDirs, "cni-bin-dir", []string{"/opt/cni/bin", "/usr/lib/cni"}, "folders of CNI plugins, the first hit wins")
}

// completeRuntime is complete for the flags of addRuntimeFlags.
func (o *nodeOptions) completeRuntime(agentDir string) error {
	var all error
	bad := func(format string, args ...any) { all = errors.Join(all, fmt.Errorf(format, args...)) }
	if !filepath.IsAbs(o.CgroupRoot) {
		bad("--cgroup-root %q is not absolute; give a path that starts with /", o.CgroupRoot)
	}
	for _, dir := range o.CDISpecDirs {
		if !filepath.IsAbs(dir) {
			bad("--cdi-spec-dirs %q is not absolute; give a path that starts with /", dir)
		}
	}
	if o.CRISocket == "" {
		o.CRISocket = filepath.Join(agentDir, "cri.sock")
	}
	o.CRISocket = strings.TrimPrefix(o.CRISocket, "unix://")
	if o.CgroupDriver == "" {
		o.CgroupDriver = defaultCgroupDriver()
	}
	if !slices.Contains([]string{"cgroupfs", "systemd"}, o.CgroupDriver) {
		bad("--cgroup-driver %q is unknown; use cgroupfs or systemd", o.CgroupDriver)
	}
	if !slices.Contains([]string{networkBuiltin, networkCNI}, o.Network) {
		bad("--network %q is unknown; use builtin or cni", o.Network)
	}
	return all
}

// complete fills what depends on the host and on other flags, and reports every value that cannot work.
func (o *nodeOptions) complete(agentDir string) error {
	var all error
	bad := func(format string, args ...any) { all = errors.Join(all, fmt.Errorf(format, args...)) }
	if o.NodeName == "" {
		host, err := os.Hostname()
		if err != nil {
			return fmt.Errorf("ask for the host's name: %w; give --node-name", err)
		}
		o.NodeName = strings.ToLower(host)
	}
	if errs := validation.IsDNS1123Subdomain(o.NodeName); len(errs) > 0 {
		bad("--node-name %q: %s", o.NodeName, errs[0])
	}
	for flag, path := range map[string]string{"--root-dir": o.RootDir, "--pod-logs-dir": o.PodLogsDir} {
		if !filepath.IsAbs(path) {
			bad("%s %q is not absolute; give a path that starts with /", flag, path)
		}
	}
	if o.StaticPods == "" {
		o.StaticPods = filepath.Join(agentDir, "static-pods")
	}
	all = errors.Join(all, o.completeRuntime(agentDir), o.Resources.check())
	if !slices.Contains([]string{"iptables", "nftables", "ipvs", "auto", "none"}, o.ProxyMode) {
		bad("--proxy-mode %q is unknown; use iptables, nftables, ipvs, auto or none", o.ProxyMode)
	}
	services, err := prefixes("--service-cluster-ip-range", o.ServiceCIDR)
	all = errors.Join(all, err)
	_, err = prefixes("--cluster-cidr", o.ClusterCIDR)
	all = errors.Join(all, err)
	if len(o.ClusterDNS) == 0 {
		for _, p := range services {
			o.ClusterDNS = append(o.ClusterDNS, nth(p, 10).String())
		}
	}
	for _, s := range o.ClusterDNS {
		if _, err := netip.ParseAddr(s); err != nil {
			bad("--cluster-dns %q is not an IP address", s)
		}
	}
	if len(o.NodeIPs) == 0 {
		ip, err := defaultAddress()
		if err != nil {
			bad("%w; give --node-ip", err)
		} else {
			o.NodeIPs = []string{ip.String()}
		}
	}
	for _, s := range o.NodeIPs {
		if _, err := netip.ParseAddr(s); err != nil {
			bad("--node-ip %q is not an IP address", s)
		}
	}
	if _, err := parseTaints(o.NodeTaints); err != nil {
		all = errors.Join(all, err)
	}
	for flag, port := range map[string]int{"--kubelet-port": o.KubeletPort, "--healthz-port": o.HealthzPort} {
		if port < 0 || port > 65535 {
			bad("%s %d is not within 0..65535", flag, port)
		}
	}
	return all
}

// prefixes parses a comma-separated list of CIDRs, at most one a family.
func prefixes(flag, value string) ([]netip.Prefix, error) {
	var out []netip.Prefix
	for s := range strings.SplitSeq(value, ",") {
		p, err := netip.ParsePrefix(strings.TrimSpace(s))
		if err != nil {
			return nil, fmt.Errorf("%s %q is not a CIDR such as 10.96.0.0/16", flag, s)
		}
		if p != p.Masked() {
			return nil, fmt.Errorf("%s %q has host bits set; write %s", flag, s, p.Masked())
		}
		for _, q := range out {
			if q.Addr().Is4() == p.Addr().Is4() {
				return nil, fmt.Errorf("%s %q names a family twice; give at most one range a family", flag, value)
			}
		}
		out = append(out, p)
	}
	return out, nil
}

// nth is the address n above the range's first.
func nth(p netip.Prefix, n int) netip.Addr {
	a := p.Masked().Addr()
	for range n {
		a = a.Next()
	}
	return a
}

func addrs(list []string) []netip.Addr {
	out := make([]netip.Addr, 0, len(list))
	for _, s := range list {
		if a, err := netip.ParseAddr(s); err == nil {
			out = append(out, a)
		}
	}
	return out
}

// defaultAddress is the source address of the interface with the default route, or else the first global one. No packet
// is sent: connecting a UDP socket only looks the route up.
func defaultAddress() (netip.Addr, error) {
	for _, v6 := range []bool{false, true} {
		if local, err := defaultAddressOf(v6); err == nil {
			return local, nil
		}
	}
	all, err := net.InterfaceAddrs()
	if err != nil {
		return netip.Addr{}, fmt.Errorf("list the host's addresses: %w", err)
	}
	for _, a := range all {
		if n, ok := a.(*net.IPNet); ok {
			if ip, ok := netip.AddrFromSlice(n.IP); ok && ip.Unmap().IsGlobalUnicast() {
				return ip.Unmap(), nil
			}
		}
	}
	return netip.Addr{}, errors.New("the host has no address that other nodes could reach")
}

// defaultAddressOf is the source address of one family's default route.
func defaultAddressOf(v6 bool) (netip.Addr, error) {
	probe := "192.0.2.1:9"
	if v6 {
		probe = "[2001:db8::1]:9"
	}
	c, err := net.DialTimeout("udp", probe, time.Second)
	if err != nil {
		return netip.Addr{}, fmt.Errorf("find the address of the default route: %w", err)
	}
	defer c.Close()
	local := c.LocalAddr().(*net.UDPAddr).AddrPort().Addr().Unmap()
	if !local.IsGlobalUnicast() {
		return netip.Addr{}, fmt.Errorf("the default route's address %s is not one that other nodes could reach", local)
	}
	return local, nil
}

// defaultCgroupDriver is systemd where it is PID 1 and owns the one hierarchy (sd_booted(3)), else cgroupfs.
func defaultCgroupDriver() string {
	if _, err := os.Stat("/run/systemd/system"); err != nil {
		return "cgroupfs"
	}
	if _, err := os.Stat("/sys/fs/cgroup/cgroup.controllers"); err != nil {
		return "cgroupfs"
	}
	return "systemd"
}

// parseTaints reads "key[=value]:effect".
func parseTaints(list []string) ([]v1.Taint, error) {
	var out []v1.Taint
	var all error
	for _, s := range list {
		kv, effect, ok := strings.Cut(s, ":")
		key, value, _ := strings.Cut(kv, "=")
		known := slices.Contains([]v1.TaintEffect{v1.TaintEffectNoSchedule, v1.TaintEffectPreferNoSchedule, v1.TaintEffectNoExecute}, v1.TaintEffect(effect))
		if !ok || !known || len(validation.IsQualifiedName(key)) > 0 {
			all = errors.Join(all, fmt.Errorf("--register-with-taints %q is not of the form key[=value]:NoSchedule|PreferNoSchedule|NoExecute", s))
			continue
		}
		out = append(out, v1.Taint{Key: key, Value: value, Effect: v1.TaintEffect(effect)})
	}
	return out, all
}
