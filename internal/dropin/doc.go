// Package dropin lets a role take the command line and the configuration files of the upstream program that it stands in
// for: a table says of every flag and every field what becomes of it, files are decoded strictly and merged, and what is
// set but not implemented is named. The tables are in kubeletconfig and kubeproxyconfig.
//
// It starts no goroutines, reads the files that it is given, and changes nothing.
package dropin
