// Package table prints stored kinds as server-side tables: the columns that kubectl get shows.
package table
