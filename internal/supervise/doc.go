// Package supervise runs child processes that must not outlive their parent, and starts them again with back-off when
// they end. Every child inherits the read end of a pipe whose write end only the supervisor holds: when the supervisor
// dies, by whatever signal, the pipe closes and the child ends by itself (PDEATHSIG would follow the thread that
// started the child, not the process).
//
// Run starts one goroutine a child and waits for all of them. It never signals a process that it did not start.
package supervise
