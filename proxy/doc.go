// Package proxy is the service proxy: it turns Services and EndpointSlices into rules of the kernel.
package proxy
