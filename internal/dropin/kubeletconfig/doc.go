// Package kubeletconfig knows kubelet's flags and KubeletConfiguration (kubelet.config.k8s.io/v1beta1), and what reeve
// does with each. Load puts defaults, file, drop-in folder and flags together, in that order.
//
// It starts no goroutines and changes nothing. What it answers is made an agent by cmd/reeve.
package kubeletconfig
