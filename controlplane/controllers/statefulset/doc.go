// Package statefulset keeps numbered pods with stable names and volumes, made, updated and removed in order.
//
// plan.go is a pure function from the pods that exist to the next actions; statefulset.go carries them out in one loop. It
// writes pods, their PersistentVolumeClaims, ControllerRevisions and the StatefulSet's status.
package statefulset
