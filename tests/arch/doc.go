// Package arch holds the checks on the tree's shape: who may import whom, what a process may link, that every package
// says what it is. It reads source files and `go list`; it has no code of its own to import.
package arch
