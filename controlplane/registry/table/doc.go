// Package table prints stored kinds as server-side tables: the columns that kubectl get shows, the same as upstream's.
// It is pure apart from reading the clock for ages.
package table
