// Package netns owns named network namespaces: files in one directory, each the bind mount of a namespace, so that the
// namespace lives without a process in it. It starts no goroutine that outlives a call, and it never touches a file that
// Create did not make: Remove and List look at its own directory only.
//
// A kill at any moment leaves at worst an empty file or a mounted namespace; both are listed, and Remove ends both.
package netns
