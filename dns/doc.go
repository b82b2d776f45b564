// Package dns answers the cluster's DNS names on every node with CoreDNS as a library.
package dns
