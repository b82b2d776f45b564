// Package rolebin carries the large programs that the one installed binary is made of, the control plane and kubectl:
// each a process of its own, so that no role pays for another's package initialisation. `make build` packs them into
// payload/ (zstd, each beside its SHA-256); a build without them looks for the programs beside the executable. The
// runtime's small parts are internal/embedded's.
//
// It starts nothing and writes only below the folder that Unpack is given.
package rolebin
