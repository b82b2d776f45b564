package main

import (
	"fmt"
	"os"
	"sync/atomic"
	"syscall"
	"unsafe"
)

// intent is one page of memory shared with a file, which outlives the process: what the batch under way is about to do.
// Fields are filled first and phase is set last; a successor that finds phaseWriting knows that the others hold.
type intent struct {
	magic   uint32
	phase   atomic.Uint32
	logSize int64  // bytes of the log file before this batch
	outLen  int64  // bytes that the batch adds to it; 0 when nothing is written (no log file, or dropped)
	inLen   int64  // bytes that the batch takes from the FIFO
	dev     uint64 // the log file, which may have been renamed since
	ino     uint64
	stream  uint32
	last    uint8 // the last byte of the batch
	marker  uint8 // last's complement until the read that takes the batch puts the byte itself here
	// seen[stream] is 1 once something has opened the FIFO for writing, so that an empty FIFO without writers means
	// the end, not the beginning.
	seen [2]uint8
}

const (
	intentMagic  = 0x72767031 // "rvp1": layout version 1
	phaseIdle    = 0
	phaseWriting = 1
	intentBytes  = 4096
)

// openIntent maps the state file at path, creating it. fresh is true when there was none, or one of another layout.
func openIntent(path string) (in *intent, fresh bool, err error) {
	f, err := os.OpenFile(path, os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		return nil, false, err
	}
	defer f.Close()
	if err := f.Truncate(intentBytes); err != nil {
		return nil, false, err
	}
	mem, err := syscall.Mmap(int(f.Fd()), 0, intentBytes, syscall.PROT_READ|syscall.PROT_WRITE, syscall.MAP_SHARED)
	if err != nil {
		return nil, false, fmt.Errorf("map %s: %w", path, err)
	}
	in = (*intent)(unsafe.Pointer(&mem[0]))
	if in.magic != intentMagic {
		clear(mem)
		in.magic = intentMagic
		return in, true, nil
	}
	return in, false, nil
}

func (in *intent) close() {
	syscall.Munmap(unsafe.Slice((*byte)(unsafe.Pointer(in)), intentBytes))
}

// begin notes a batch whose last byte is last.
func (in *intent) begin(stream int, logSize, outLen, inLen int64, dev, ino uint64, last byte) {
	in.stream, in.logSize, in.outLen, in.inLen, in.dev, in.ino = uint32(stream), logSize, outLen, inLen, dev, ino
	in.last, in.marker = last, ^last
	in.phase.Store(phaseWriting)
}

func (in *intent) end() { in.phase.Store(phaseIdle) }

// take reads inLen bytes from fd and forgets them; the last one lands in marker. The kernel copies from a pipe without
// stopping for signals while there is data, so a kill leaves either all of it taken or none.
func (in *intent) take(fd int, scratch []byte) error {
	left := in.inLen
	for left > int64(len(scratch)) { // cannot happen for batches that were read through scratch; a foreign note could say it
		n, err := syscall.Read(fd, scratch[:min(left-1, int64(len(scratch)))])
		if n <= 0 || err != nil {
			return fmt.Errorf("take %d bytes: %w", left, errOr(err))
		}
		left -= int64(n)
	}
	var iov [2]syscall.Iovec
	used := iov[:0]
	if left > 1 {
		v := syscall.Iovec{Base: &scratch[0]}
		v.SetLen(int(left - 1))
		used = append(used, v)
	}
	v := syscall.Iovec{Base: &in.marker}
	v.SetLen(1)
	used = append(used, v)
	for {
		n, _, errno := syscall.Syscall(syscall.SYS_READV, uintptr(fd), uintptr(unsafe.Pointer(&used[0])), uintptr(len(used)))
		switch {
		case errno == syscall.EINTR:
			continue
		case errno != 0:
			return fmt.Errorf("take %d bytes: %w", left, errno)
		case int64(n) != left:
			return fmt.Errorf("took %d bytes instead of %d", n, left)
		}
		return nil
	}
}

func errOr(err error) error {
	if err == nil {
		return os.ErrClosed
	}
	return err
}
