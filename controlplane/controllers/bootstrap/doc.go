// Package bootstrap looks after bootstrap tokens: it deletes expired ones and signs the public cluster-info with those made
// for that. Two loops with informers of their own, which see nothing but these tokens and that ConfigMap. Token secrets are
// never logged.
package bootstrap
