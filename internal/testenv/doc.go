// Package testenv gives tests what they need of the machine, or skips them with a named reason: root, programs, a
// private containerd with a folder, cgroup and cleanup of its own, a busybox image. With REEVE_CI=1 a missing need fails
// the test instead, so that CI cannot pass by skipping. What a killed test left behind is found by its folder's mark and
// removed by the next one. It starts only what a test asks for, and ends it with the test. Long tells
// whether the long forms of tests were asked for.
package testenv
