package spec

import (
	"runtime"

	specs "github.com/opencontainers/runtime-spec/specs-go"
)

// pauseSeccomp is the filter of reeve's own pause program where RuntimeDefault is asked for. The program makes four
// system calls, takes no input, has no capability and cannot gain one; the general filter, of 400 calls for three
// architectures, would cost every pod 20 ms to compile. This one refuses what could reach beyond the sandbox, and every
// call of another architecture.
func pauseSeccomp() *specs.LinuxSeccomp {
	arch := specs.ArchX86_64
	if runtime.GOARCH == "arm64" {
		arch = specs.ArchAARCH64
	}
	errno := uint(1) // EPERM
	return &specs.LinuxSeccomp{
		DefaultAction: specs.ActAllow, Architectures: []specs.Arch{arch},
		Syscalls: []specs.LinuxSyscall{{Action: specs.ActErrno, ErrnoRet: &errno, Names: []string{
			"acct", "add_key", "bpf", "chroot", "delete_module", "finit_module", "init_module", "kexec_load", "keyctl", "mount",
			"name_to_handle_at", "open_by_handle_at", "perf_event_open", "personality", "pivot_root", "process_vm_readv",
			"process_vm_writev", "ptrace", "quotactl", "reboot", "request_key", "setdomainname", "sethostname", "setns",
			"settimeofday", "socket", "swapoff", "swapon", "syslog", "umount2", "unshare", "userfaultfd", "vhangup",
		}}},
	}
}
