// Package image brings images to the node: pull policies, credentials of the pod, one pull shared by all who want the
// same image with the same credentials, a bound on pulls at once, back-off per pod and image, and the Events that users
// know. It starts a goroutine a pull, which ends with the pull; nothing else.
package image
