// Package job runs pods to completion.
//
// Each of a Job's pods carries a finalizer until its end has been counted in the Job's status, so that no end is missed or
// counted twice, whoever deletes the pod. plan.go and indexes.go are pure; job.go carries out in one loop, with what it does
// to pods in pods.go. It writes pods, their finalizers, and the Job's status.
package job
