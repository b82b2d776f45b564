// Package ociarchive writes a container image as an OCI image layout in one tar stream, byte for byte the same for the
// same input. It knows just enough for images of a few static files, needs only the standard library, and starts
// nothing.
package ociarchive
