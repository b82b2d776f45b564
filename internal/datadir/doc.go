// Package datadir owns the layout of --data-dir: which file lies where, who may read it, which process holds it, and
// which version wrote it. It starts nothing. It removes only what Remove is asked to remove.
package datadir
