//go:build ignore

/*
 * pause holds a pod's namespaces open and, as process 1 of a shared PID namespace, reaps what dies in it.
 *
 * It is freestanding: no libc, so that it is a few hundred bytes of text and one page of memory a pod. It blocks the
 * signals it cares for and waits for them; blocking matters, because the kernel drops unblocked signals with the
 * default action that are sent to a process 1. SIGTERM and SIGINT end it with code 0.
 *
 * Build: gcc -Os -static -nostdlib -ffreestanding -o pause pause.c (x86-64 and arm64).
 */

typedef unsigned long ulong;

enum { SIGINT = 2, SIGTERM = 15, SIGCHLD = 17, SIG_BLOCK = 0, WNOHANG = 1 };

#define BIT(sig) (1UL << ((sig) - 1))

#if defined(__x86_64__)

enum { SYS_rt_sigprocmask = 14, SYS_exit = 60, SYS_wait4 = 61, SYS_rt_sigtimedwait = 128 };

static long syscall4(long n, long a, long b, long c, long d)
{
	long ret;
	register long r10 __asm__("r10") = d;
	__asm__ volatile("syscall"
			 : "=a"(ret)
			 : "a"(n), "D"(a), "S"(b), "d"(c), "r"(r10)
			 : "rcx", "r11", "memory");
	return ret;
}

#elif defined(__aarch64__)

enum { SYS_exit = 93, SYS_rt_sigprocmask = 135, SYS_rt_sigtimedwait = 137, SYS_wait4 = 260 };

static long syscall4(long n, long a, long b, long c, long d)
{
	register long x8 __asm__("x8") = n;
	register long x0 __asm__("x0") = a;
	register long x1 __asm__("x1") = b;
	register long x2 __asm__("x2") = c;
	register long x3 __asm__("x3") = d;
	__asm__ volatile("svc 0" : "+r"(x0) : "r"(x8), "r"(x1), "r"(x2), "r"(x3) : "memory");
	return x0;
}

#else
#error "pause knows x86-64 and arm64 only"
#endif

__attribute__((noreturn, used)) void _start(void)
{
	ulong set = BIT(SIGINT) | BIT(SIGTERM) | BIT(SIGCHLD);

	syscall4(SYS_rt_sigprocmask, SIG_BLOCK, (long)&set, 0, sizeof set);
	for (;;) {
		long sig = syscall4(SYS_rt_sigtimedwait, (long)&set, 0, 0, sizeof set);

		if (sig == SIGINT || sig == SIGTERM)
			syscall4(SYS_exit, 0, 0, 0, 0);
		/* One SIGCHLD can stand for several deaths, and an interrupted wait for none. */
		while (syscall4(SYS_wait4, -1, 0, WNOHANG, 0) > 0)
			;
	}
}
