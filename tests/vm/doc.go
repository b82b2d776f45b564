// Package vm runs programs in a virtual machine: what this machine's kernel lacks or a test may not touch here (IPVS and
// dummy devices, systemd as PID 1, cgroup v2, AppArmor). The machine is Debian 12 under qemu without KVM, about six times
// slower than its host, with two processors, and without a network: all its traffic is inside it.
//
// Image makes its disk with debootstrap, from the Debian mirror that this host's own apt uses, and keeps it in the user's
// cache folder under the recipe's hash; a missing one is made anew. Start boots it with a throw-away overlay, and with a
// second disk that carries the programs under test. Machine.Run executes commands through the guest program
// (tests/vm/guest) on a virtio serial port. qemu dies with the test process, and folders of killed ones are removed by the
// next Start. One goroutine per machine waits for qemu, one reads the port.
package vm
