// Package authentication serves TokenReview and SelfSubjectReview: who is this token, who am I.
//
// Nothing is stored and no goroutine is started. A review never says why a token is bad beyond the authenticator's own
// error, and never echoes the token into logs.
package authentication
