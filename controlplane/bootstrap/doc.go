// Package bootstrap makes the objects that every cluster starts with, through the API: the system namespaces, the
// kubernetes and kube-dns Services, the system priority classes, the trust anchors that clients and extension servers
// read, and the token by which nodes join.
//
// Everything in it may be repeated at any time: what exists is left alone or put right. It starts no goroutines.
package bootstrap
