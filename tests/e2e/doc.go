// Package e2e drives a whole node the way its users do: real kubectl, real containerd, real packets (tests/node starts
// it).
//
//	kubectl_test.go         what a user does with kubectl, on one Deployment behind Services; once more on containerd's CRI plugin
//	extend_test.go          CRDs, helm, client-go inside a pod
//	kill_test.go            kill -9 of each process under load
//	restart_test.go         stop and start, and upgrade
//	agent_restart_test.go   the agent restarted again and again, without a trace
//	badinput_test.go        starts and pods that cannot work, and what they say
//	security_test.go        what a node's credential and a stranger may not
//	quickstart_test.go      `make run ONCE=1` and what remains after it
package e2e
