// Package fill sets API fields that a client left out. It starts no goroutines and never touches a field that is set.
package fill
