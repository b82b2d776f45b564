// Package replication keeps as many pods as a ReplicationController asks for: the replicaset package's engine over the older
// kind. It starts what that engine starts.
package replication
