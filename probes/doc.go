// Package probes asks containers whether they started, live and are ready.
package probes
