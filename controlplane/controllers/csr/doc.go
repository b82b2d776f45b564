// Package csr approves, signs and clears away CertificateSigningRequests: nodes' client and serving certificates, and client
// certificates that a user approved. Three loops, one each; they write only the requests' conditions, certificates and
// deletions.
package csr
