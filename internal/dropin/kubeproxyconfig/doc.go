// Package kubeproxyconfig knows kube-proxy's flags and KubeProxyConfiguration (kubeproxy.config.k8s.io/v1alpha1), and what
// reeve does with each. Load puts defaults and file together or, without a file, defaults and flags, as upstream.
//
// It starts no goroutines and changes nothing. What it answers is made a proxy by cmd/reeve.
package kubeproxyconfig
