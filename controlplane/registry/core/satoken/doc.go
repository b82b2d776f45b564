// Package satoken serves serviceaccounts/token: it issues the tokens that pods and people use as a service account,
// bound to a pod, Secret or node so that they end with it.
//
// Nothing is stored, no goroutine is started, and no token is ever logged.
package satoken
