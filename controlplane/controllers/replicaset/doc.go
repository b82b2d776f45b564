// Package replicaset keeps as many pods as a ReplicaSet asks for. Its Engine does the same for ReplicationControllers, through
// an adapter. One loop with a few workers; writes pods and the set's status, nothing else.
package replicaset
