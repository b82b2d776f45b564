// Package bootstrap turns a join token into a node's own credentials: it checks the cluster's CA against the hash in the
// token, has a client certificate signed for system:node:<name>, writes it and a kubeconfig (0600), and renews it; and it
// has the serving certificate of :10250 signed. A running credential's renewal is one goroutine, which its Run owns.
package bootstrap
