// Package mirror keeps compact copies of API objects current: a reflector without a cache of its own, which hands every
// object over once and lets it go. Run starts one watch and what client-go needs for it, and waits for all of it.
package mirror
