// Package bench measures a whole node beside a reference that is measured in the same run (docs/PERFORMANCE.md): the
// bare sequence, which is what any node agent has to do for a pod, one step after the other through containerd's client.
// Rounds of the two are interleaved, and median and spread are reported. Nothing here asserts a time.
package bench
