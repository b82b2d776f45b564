// Package authorization serves the access reviews: may this user, may I, what may I.
//
// Nothing is stored and no goroutine is started.
package authorization
