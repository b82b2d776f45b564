// Package bootstrap gives a node its own credentials: with a join token, whose hash vouches for the cluster's CA, or with a
// bootstrap kubeconfig, it has a client certificate signed for system:node:<name>, writes it and a kubeconfig (0600), and
// renews it; and it has the serving certificate of :10250 signed. Certificates change under running clients: the next
// handshake shows the new one, and connections that showed the old one are closed.
//
// A node that has a certificate starts at once, expired or not and whether the API server answers or not: what it needs is
// got in the background. A running credential's renewal is two goroutines, which its Run owns.
package bootstrap
