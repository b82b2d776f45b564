package node

import (
	coordinationv1 "k8s.io/api/coordination/v1"
	v1 "k8s.io/api/core/v1"
)

type coordinationLease = coordinationv1.Lease

// leaseNamespace is where node leases live.
const leaseNamespace = v1.NamespaceNodeLease
