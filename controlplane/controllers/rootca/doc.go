// Package rootca publishes the API server's certificate authority in every namespace, as ConfigMap kube-root-ca.crt, from
// which pods' projected volumes take it. One loop and an informer of its own that sees ConfigMaps of that name only; writes
// only those.
package rootca
