// Package ipam hands out addresses of one range, each to one owner at a time. It keeps everything in memory and does no
// I/O: who uses it writes down what was given and reserves it again after a restart. Not safe for concurrent use.
package ipam
