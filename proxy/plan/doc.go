// Package plan decides every policy of the service proxy: which Services are ours, which endpoints serve which traffic,
// what is rejected, dropped or masqueraded. It is pure: no I/O, no time, no goroutines. Backends translate its model into
// rules of the kernel and decide nothing.
package plan
