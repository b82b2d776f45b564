// Package nodeipam cuts a pod range for every node out of the cluster's ranges. One loop with one worker, so that no range is
// given twice; writes only the nodes' spec.podCIDR and spec.podCIDRs.
package nodeipam
