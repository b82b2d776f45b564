// Package node keeps this node's Node object and Lease: it registers the node, renews the lease, and reports status —
// when something changed at once, else rarely. It watches the node's own object for pod CIDRs, labels and taints.
//
// Run starts four goroutines (registration, lease, status, watch) and waits for them. The package asks the runtime how it
// is but changes nothing in it.
package node
