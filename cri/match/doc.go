// Package match decides which sandboxes, containers and stats a CRI list filter selects. It is pure, and shared by
// every runtime that answers lists from memory. IDs may be shortened to any prefix, as CRI clients do.
package match
