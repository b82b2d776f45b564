// Package podgc removes pods that nobody else will: those of nodes that are gone, those deleted before they got a node, those
// on nodes declared out of service, and the oldest finished ones beyond a limit. One loop with a single key; it looks after
// node and pod events that could matter, and every few minutes. Writes pods' last status and deletes them at once.
package podgc
