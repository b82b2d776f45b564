// Package dropin runs reeve under the names of upstream's programs: as a kubelet that joins, over nothing but a
// KubeletConfiguration and a bootstrap kubeconfig, a control plane that another host runs; as one that stands alone; and as
// kube-proxy. Its Main puts the tests into namespaces of their own; the control plane runs in the namespace behind them.
package dropin
