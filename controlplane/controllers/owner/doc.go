// Package owner decides what belongs to a controller object: adoption and release by controllerRef, and expectations, which
// keep a controller from acting twice on news that its cache has not brought yet. It starts no goroutine; the only writes
// are the adoption patches that callers pass in.
package owner
