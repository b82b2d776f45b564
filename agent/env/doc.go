// Package env makes a container's environment: literal values with $(VAR) references, fieldRef, resourceFieldRef,
// ConfigMap and Secret keys, envFrom, and the variables that describe Services. Pure but for the objects that it is
// handed a way to read; it starts nothing and logs nothing.
package env
