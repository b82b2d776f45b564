// Package daemonset runs one pod of a DaemonSet on every node that it fits, and rolls templates over node by node.
//
// plan.go decides, as pure functions; daemonset.go carries it out in one loop. It writes pods (each bound to its node by node
// affinity, the scheduler does the rest), ControllerRevisions and the DaemonSet's status.
package daemonset
