// Package container turns a pod's API objects into CRI configurations: sandbox and container, labels and annotations,
// namespaces, security, resources, DNS, hostname. Everything here is a pure function of its arguments; it reads no file,
// calls nothing and starts nothing.
package container
