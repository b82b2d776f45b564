// Package endpointslice keeps the EndpointSlices of Services with a selector, through the published reconciler. One loop keyed
// by Service, without batching: a pod that becomes ready or leaves is in the slices as soon as the API takes the write. Writes
// EndpointSlices only.
package endpointslice
