// Package logkey names the keys of structured log lines, so that one thing has one key everywhere.
package logkey
