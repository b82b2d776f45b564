package kubeproxyconfig

import "github.com/reevehq/reeve/internal/dropin"

const (
	byEvents = "changes are programmed as they come"
	windows  = "Windows only"
)

// Fields is what becomes of every field of KubeProxyConfiguration.
var Fields = dropin.Table{
	{Path: "kind", Support: works},
	{Path: "apiVersion", Support: works},
	{Path: "featureGates", Support: missing, Note: "there are no gates: what is GA in 1.36 is on"},
	{Path: "clientConnection.kubeconfig", Support: works, Note: "default: the pod's own service account"},
	{Path: "clientConnection.qps", Support: works},
	{Path: "clientConnection.burst", Support: works},
	{Path: "clientConnection.contentType", Support: works},
	{Path: "clientConnection.acceptContentTypes", Support: works},
	{Path: "logging.format", Support: works},
	{Path: "logging.verbosity", Support: works, Note: "4 and more logs debug messages"},
	{Path: "logging.flushFrequency", Support: fixed, Note: "nothing is buffered"},
	{Path: "logging.vmodule", Support: missing},
	{Path: "logging.options", Support: missing, Neutral: []string{"false", "0"}},
	{Path: "hostnameOverride", Support: works},
	{Path: "bindAddress", Support: works, Note: "the node's primary address, where it is not 0.0.0.0 or ::"},
	{Path: "healthzBindAddress", Support: works, Note: "a taken port ends the start"},
	{Path: "metricsBindAddress", Support: works, Note: "a taken port ends the start"},
	{Path: "bindAddressHardFail", Support: fixed, Note: "always so"},
	{Path: "enableProfiling", Support: works},
	{Path: "showHiddenMetricsForVersion", Support: missing},
	{Path: "mode", Support: works, Note: "iptables (default), nftables, ipvs; auto is reeve's own word"},
	{Path: "iptables.masqueradeBit", Support: works},
	{Path: "iptables.masqueradeAll", Support: works},
	{Path: "iptables.localhostNodePorts", Support: works, Note: "default: false, since it needs route_localnet"},
	{Path: "iptables.syncPeriod", Support: fixed, Note: byEvents + "; what others flush is healed within 30 s"},
	{Path: "iptables.minSyncPeriod", Support: works, Note: "default: 20ms, a sync writes only what differs"},
	{Path: "nftables.masqueradeBit", Support: works},
	{Path: "nftables.masqueradeAll", Support: works},
	{Path: "nftables.syncPeriod", Support: fixed, Note: byEvents + "; what others flush is healed at once"},
	{Path: "nftables.minSyncPeriod", Support: works, Note: "default: 20ms, a sync writes only what differs"},
	{Path: "ipvs.scheduler", Support: works},
	{Path: "ipvs.excludeCIDRs", Support: works},
	{Path: "ipvs.strictARP", Support: works},
	{Path: "ipvs.tcpTimeout", Support: works},
	{Path: "ipvs.tcpFinTimeout", Support: works},
	{Path: "ipvs.udpTimeout", Support: works},
	{Path: "ipvs.syncPeriod", Support: fixed, Note: byEvents},
	{Path: "ipvs.minSyncPeriod", Support: works, Note: "default: 20ms, a sync writes only what differs"},
	{Path: "winkernel", Support: missing, Note: windows, Neutral: []string{"false"}},
	{Path: "windowsRunAsService", Support: refused, Note: windows, Neutral: []string{"false"}},
	{Path: "detectLocalMode", Support: works},
	{Path: "detectLocal.bridgeInterface", Support: works},
	{Path: "detectLocal.interfaceNamePrefix", Support: works},
	{Path: "clusterCIDR", Support: works},
	{Path: "nodePortAddresses", Support: works, Note: "CIDRs, or primary"},
	{Path: "oomScoreAdj", Support: works, Note: "as far as the process may lower its own"},
	{Path: "conntrack", Support: works, Note: "0 leaves the host's value"},
	{Path: "configSyncPeriod", Support: fixed, Note: byEvents},
	{Path: "portRange", Support: fixed, Note: "has no effect upstream"},
}
