// Package agent is the kubelet: it registers the node, runs the pods that the API server and the static folder give
// it, and reports what it sees.
//
// Run is the whole of it. One goroutine a pod (podworker) turns a pure plan into actions on the runtime seam; events of
// the runtime, the volumes and the probes only say "look again". Run starts every loop and returns when all of them have
// stopped; it never stops a pod because it is itself told to stop, and it holds no state that containerd, the API or a
// small checkpoint could not give back.
package agent
