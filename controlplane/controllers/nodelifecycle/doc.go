// Package nodelifecycle watches over nodes: one whose lease is no longer renewed becomes Ready=Unknown, its pods not ready, and
// taints follow what the conditions say.
//
// Time is measured from when this process saw a renewal, so that nodes' clocks do not matter. One loop; a node is looked at
// when it changes and when its lease would run out. Writes node conditions and taints and pods' Ready condition.
package nodelifecycle
