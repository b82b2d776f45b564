// Package validation decides whether an API object may be stored, with the same kind of field error (type and path) as
// Kubernetes 1.36 where it may not.
//
// Create, Update, UpdateStatus and UpdateSubresource dispatch on the Go type. Each checks metadata, then the hand-written
// rules of the kind (a file or a few a kind), then the +k8s: markers of k8s.io/api through package declared. Objects must
// be defaulted before. The package starts no goroutines, reads nothing but its arguments and never changes them.
//
// # Kinds without hand-written validation
//
// These get metadata and markers only: DeviceClass, ResourceClaim, ResourceClaimTemplate and ResourceSlice
// (resource.k8s.io/v1, whose markers cover most fields). ServiceAccount has no rules beyond its metadata.
// Subresources whose objects are options or reviews (Binding, Eviction, TokenRequest, access reviews) are checked
// where they are served.
package validation
