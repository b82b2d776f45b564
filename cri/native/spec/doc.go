// Package spec turns CRI configurations into OCI runtime specifications. It is pure: what it needs to know about the
// host, the image and the sandbox comes in as values, so that every decision can be tested from a table. It reads no
// file, calls no runtime and starts nothing.
package spec
