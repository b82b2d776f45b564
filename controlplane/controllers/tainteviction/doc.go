// Package tainteviction deletes pods from nodes with NoExecute taints once their tolerations run out. One loop, keyed by pod;
// a pod is looked at when it or its node's taints change and when its time is up. Writes only the condition and the deletion.
package tainteviction
