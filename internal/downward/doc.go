// Package downward reads from a Pod what the downward API shows to its containers, for environment variables and for
// volumes alike: fieldRef paths and resourceFieldRef quantities. Pure: it reads its arguments and nothing else.
package downward
