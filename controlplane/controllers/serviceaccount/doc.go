// Package serviceaccount keeps a service account "default" in every namespace. One loop; writes only service accounts of that
// name.
package serviceaccount
