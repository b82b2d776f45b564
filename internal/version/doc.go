// Package version says which reeve this is and which Kubernetes API it speaks. The values are set by the linker. It
// starts nothing and imports nothing but the standard library.
package version
