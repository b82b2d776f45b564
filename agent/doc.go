// Package agent is the kubelet: it registers the node, runs the pods that the API server and the static folder give
// it, and reports what it sees.
package agent
