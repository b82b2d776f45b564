// Package objects keeps the ConfigMaps and Secrets that the node's pods name current, each by a watch of its own: the
// Node authorizer lets a node read single objects by name and nothing wider.
//
// It owns one goroutine an object while some pod refers to it. It never lists a namespace, never writes, and logs no
// content.
package objects
