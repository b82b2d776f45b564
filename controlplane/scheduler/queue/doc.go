// Package queue holds the pods that wait for a node.
//
// It owns the three waiting rooms (ready, backing off, unschedulable), decides which of them a pod enters, and moves pods
// when cluster events could help them. Run starts one goroutine, which wakes only when a back-off ends or a pod has been
// unschedulable for too long. The package never talks to the API.
package queue
