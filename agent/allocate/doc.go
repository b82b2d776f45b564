// Package allocate remembers what resources each pod of the node was given, as against what its spec asks for since: a
// resize is first asked, then allocated where the node has room, then actuated. It decides and remembers, on disk too; it
// touches no container and starts nothing.
package allocate
