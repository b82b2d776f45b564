// Package endpoints keeps the Endpoints of Services with a selector: the older form of EndpointSlices, which some clients still
// read. One loop keyed by Service; writes Endpoints only.
package endpoints
