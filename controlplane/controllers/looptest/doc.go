// Package looptest runs controllers over an in-memory API in tests. It starts what it is given and stops it when the test ends.
package looptest
