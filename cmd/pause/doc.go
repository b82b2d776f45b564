// Package pause holds pause.c, the program that keeps a pod's namespaces open: C without libc, compiled by
// internal/imagebuild into the image localhost/reeve-pause. Nothing of it is Go; this file only gives the folder a
// package for the test that runs the compiled program.
package pause
