// Package agent shows each behaviour of the node agent on a real node with a real containerd: a file for each group of
// docs/BEHAVIOUR.md, which says which test shows what, and behaviour_test.go holds that table to the tests that exist.
//
// The tests share one node (tests/node.Suite) and run side by side, each in a namespace of its own (open). A namespace
// records every state of its pods, and at the end of each test no restart count, phase or generation may have gone back
// (lawful). Tests that need a node of their own, with other flags or a node to break, start it with node.New; they are not
// parallel, and so come before the shared node, whose ports they use. Subtests of a shared node are the namespace's sub.
//
// Longer forms run with REEVE_LONG=1.
package agent
