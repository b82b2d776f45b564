// Package pki owns the control plane's keys and certificates: the cluster and front-proxy authorities, the
// service-account key pair, and the certificates that they sign for the control plane's own parts. Everything lies in
// one folder, 0600 each, and is made once; leaf certificates are made anew when they near their end or no longer fit
// (another address, another authority).
//
// It starts no goroutines and never removes or replaces an authority or the service-account key.
package pki
