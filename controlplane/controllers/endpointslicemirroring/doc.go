// Package endpointslicemirroring makes EndpointSlices of Endpoints that users write themselves, for Services without a
// selector, so that proxies need only read slices. One loop keyed by Endpoints; writes EndpointSlices that carry its label
// only.
package endpointslicemirroring
