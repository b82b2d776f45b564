// Package logread reads containers' logs: files in the CRI format, across their rotation, followed by inotify rather
// than by polling. It starts one goroutine a followed log, and ends it. It never writes to a log.
package logread
