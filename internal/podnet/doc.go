// Package podnet holds the words in which the runtime and the network talk about a pod: cri/native asks, cni answers,
// and neither imports the other. It has no behaviour and starts nothing.
package podnet
