package cgroup

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"sync"

	"golang.org/x/sys/unix"
)

// stall is the PSI trigger of a MemoryWatch: some task waited for memory for 100 ms within 2 s. The kernel then tells at
// most once in 2 s, the only kind of window that it grants without CAP_SYS_RESOURCE.
const stall = "some 100000 2000000"

// systemPressure is the whole machine's PSI file, there whatever the cgroup version.
const systemPressure = "/proc/pressure/memory"

// MemoryWatch wakes its owner when the kernel sees the memory of a cgroup run short: on v1 when usage crosses the armed
// amount, on v2 when tasks stall for memory (PSI) or the cgroup reaches its limits (memory.events). What the kernel does
// not have is left out, so a watch may be silent: it quickens a look, and never replaces one.
type MemoryWatch struct {
	// C receives when there is something to look at. It is never closed.
	C <-chan struct{}

	c    chan struct{}
	ep   *os.File
	done chan struct{}

	mu     sync.Mutex
	epfd   int    // of ep: asking an os.File for it would make it block
	dir    string // v1: where to arm
	usage  int    // v1: memory.usage_in_bytes, -1 for none
	event  int    // v1: eventfd of the armed threshold, -1 for none
	armed  uint64
	others []int // PSI and inotify descriptors
	wakes  []int // those of them that must be drained
	closed bool
}

// WatchMemory watches the cgroup path. It starts one goroutine, which Close ends. It fails only when the kernel gives no
// descriptors; use Sources to see what is watched.
func (h *Host) WatchMemory(path string) (*MemoryWatch, error) {
	ep, err := unix.EpollCreate1(unix.EPOLL_CLOEXEC)
	if err != nil {
		return nil, fmt.Errorf("watch memory of cgroup %q: %w", path, err)
	}
	w := &MemoryWatch{c: make(chan struct{}, 1), done: make(chan struct{}), usage: -1, event: -1}
	w.C = w.c
	if h.Unified {
		dir := filepath.Join(h.V2, path)
		psi := filepath.Join(dir, "memory.pressure")
		if filepath.Clean("/"+path) == "/" {
			psi = systemPressure
		}
		w.addPressure(ep, psi)
		w.addEvents(ep, filepath.Join(dir, "memory.events"))
	} else if dir := h.Dir("memory", path); dir != "" {
		w.dir = dir
		if fd, err := unix.Open(filepath.Join(dir, "memory.usage_in_bytes"), unix.O_RDONLY|unix.O_CLOEXEC, 0); err == nil {
			w.usage = fd
		}
		if filepath.Clean("/"+path) == "/" {
			w.addPressure(ep, systemPressure)
		}
	}
	if err := unix.SetNonblock(ep, true); err != nil {
		unix.Close(ep)
		return nil, fmt.Errorf("watch memory of cgroup %q: %w", path, err)
	}
	w.ep, w.epfd = os.NewFile(uintptr(ep), "memory watch"), ep
	go w.run()
	return w, nil
}

// Sources says what the kernel lets the watch hear of: "threshold" (v1), "pressure" and "events".
func (w *MemoryWatch) Sources() []string {
	w.mu.Lock()
	defer w.mu.Unlock()
	var out []string
	if w.usage >= 0 {
		out = append(out, "threshold")
	}
	if len(w.others) > len(w.wakes) {
		out = append(out, "pressure")
	}
	if len(w.wakes) > 0 {
		out = append(out, "events")
	}
	return out
}

// addPressure arms a PSI trigger. A trigger lives as long as its descriptor.
func (w *MemoryWatch) addPressure(ep int, file string) {
	fd, err := unix.Open(file, unix.O_RDWR|unix.O_NONBLOCK|unix.O_CLOEXEC, 0)
	if err != nil {
		return
	}
	if _, err = unix.Write(fd, append([]byte(stall), 0)); err == nil {
		err = unix.EpollCtl(ep, unix.EPOLL_CTL_ADD, fd, &unix.EpollEvent{Events: unix.EPOLLPRI, Fd: int32(fd)})
	}
	if err != nil {
		unix.Close(fd)
		return
	}
	w.others = append(w.others, fd)
}

// addEvents hears of changes of memory.events, which the kernel tells as a modification of the file.
func (w *MemoryWatch) addEvents(ep int, file string) {
	fd, err := unix.InotifyInit1(unix.IN_CLOEXEC | unix.IN_NONBLOCK)
	if err != nil {
		return
	}
	if _, err = unix.InotifyAddWatch(fd, file, unix.IN_MODIFY); err == nil {
		err = unix.EpollCtl(ep, unix.EPOLL_CTL_ADD, fd, &unix.EpollEvent{Events: unix.EPOLLIN, Fd: int32(fd)})
	}
	if err != nil {
		unix.Close(fd)
		return
	}
	w.others, w.wakes = append(w.others, fd), append(w.wakes, fd)
}

// Arm asks to be woken when usage, page cache included, crosses the bytes in either direction (v1; elsewhere it does
// nothing). Repeating it with about the same amount costs nothing.
func (w *MemoryWatch) Arm(bytes uint64) error {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.usage < 0 || w.closed || w.event >= 0 && near(bytes, w.armed) {
		return nil
	}
	fd, err := unix.Eventfd(0, unix.EFD_CLOEXEC|unix.EFD_NONBLOCK)
	if err != nil {
		return fmt.Errorf("arm memory threshold: %w", err)
	}
	line := strconv.Itoa(fd) + " " + strconv.Itoa(w.usage) + " " + strconv.FormatUint(bytes, 10)
	if err = os.WriteFile(filepath.Join(w.dir, "cgroup.event_control"), []byte(line), 0); err == nil {
		// The file is closed only in Close, after which nothing is armed any more.
		err = unix.EpollCtl(w.epfd, unix.EPOLL_CTL_ADD, fd, &unix.EpollEvent{Events: unix.EPOLLIN, Fd: int32(fd)})
	}
	if err != nil {
		unix.Close(fd)
		return fmt.Errorf("arm memory threshold at %d bytes: %w", bytes, err)
	}
	if w.event >= 0 {
		unix.Close(w.event) // the kernel forgets the threshold with its eventfd
	}
	w.event, w.armed = fd, bytes
	return nil
}

// near tells amounts that differ by less than 1 MiB.
func near(a, b uint64) bool { return max(a, b)-min(a, b) < 1<<20 }

func (w *MemoryWatch) run() {
	defer close(w.done)
	conn, err := w.ep.SyscallConn()
	if err != nil {
		return
	}
	events := make([]unix.EpollEvent, 4)
	for {
		// The epoll descriptor is itself waited for by Go's poller: no thread blocks. That poller's own look takes a PSI
		// event away before we see it, so whatever wakes us counts.
		woken := false
		err := conn.Read(func(fd uintptr) bool {
			n, err := unix.EpollWait(int(fd), events, 0)
			again := woken
			woken = true
			return again || n > 0 || err != nil && !errors.Is(err, unix.EINTR)
		})
		if err != nil {
			return // closed
		}
		w.drain()
		select {
		case w.c <- struct{}{}:
		default:
		}
	}
}

func (w *MemoryWatch) drain() {
	w.mu.Lock()
	defer w.mu.Unlock()
	var buf [4096]byte
	for _, fd := range append([]int{w.event}, w.wakes...) {
		if fd < 0 || w.closed {
			continue
		}
		for {
			if n, err := unix.Read(fd, buf[:]); n <= 0 || err != nil {
				break
			}
		}
	}
}

// Close ends the watch and waits for its goroutine.
func (w *MemoryWatch) Close() {
	w.mu.Lock()
	if w.closed {
		w.mu.Unlock()
		return
	}
	w.closed = true
	w.mu.Unlock()
	w.ep.Close()
	<-w.done
	for _, fd := range append([]int{w.event, w.usage}, w.others...) {
		if fd >= 0 {
			unix.Close(fd)
		}
	}
}
