// Package declared checks the +k8s: validation markers of k8s.io/api: one generated package a group, gathered here. It
// starts no goroutines and never changes what it checks. Kinds without markers pass.
package declared

//go:generate ./generate.sh
