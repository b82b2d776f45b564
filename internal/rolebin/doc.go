// Package rolebin carries the programs and images that the one installed binary is made of: the control plane, kubectl
// and the log writer, each a process of its own so that no role pays for another's package initialisation, and the OCI
// images of pause and of the demo. `make build` packs them into payload/ (zstd, each beside its SHA-256); a build
// without them looks for the programs beside the executable.
//
// It starts nothing and writes only below the folder that Unpack is given.
package rolebin
