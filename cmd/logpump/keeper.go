package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"runtime"
	"sync"
	"syscall"
	"time"

	"github.com/reevehq/reeve/internal/logpump"
)

// What lies in a FIFO is lost when nobody holds it open any more: when a container ends while its pump is dead. The
// keeper is the second process that holds every FIFO. It does nothing else but start the pump again when that has died,
// and the pump does the same for it; so only the death of both at once, with the agent's, can cost a line.

// keepRequest goes from pump to keeper, one packet each; "hold" carries the descriptors.
type keepRequest struct {
	Op  string   `json:"op"` // "hold" ID, "drop" ID, "only" IDs, "leave"
	ID  string   `json:"id,omitempty"`
	IDs []string `json:"ids,omitempty"`
}

// keepResponse is the keeper's answer.
type keepResponse struct {
	PID int `json:"pid"`
}

const (
	keepPacket = 192 << 10             // bytes of the longest request: "only" with some 2,500 containers
	keepGrace  = 5 * time.Second       // for a pump to connect after its start, and a keeper to listen
	respawnMin = 20 * time.Millisecond // between starts of a pump that dies at once
	respawnMax = 5 * time.Second       //
)

// keeper is the process's state.
type keeper struct {
	dir string

	mu      sync.Mutex
	held    map[string][]int
	pumps   int // connections of pumps, one but for the moment of a change
	leaving bool
	changed chan struct{} // something of the above did
}

// runKeeper is the whole process.
func runKeeper(dir string) error {
	lock, err := prepare(dir, logpump.KeeperLockPath(dir))
	if lock == nil {
		return err
	}
	defer lock.Close()
	runtime.GOMAXPROCS(1)
	k := &keeper{dir: dir, held: map[string][]int{}, changed: make(chan struct{}, 1)}
	sock := logpump.KeeperSocketPath(dir)
	os.Remove(sock + ".new")
	l, err := net.ListenUnix("unixpacket", &net.UnixAddr{Name: sock + ".new", Net: "unixpacket"})
	if err != nil {
		return err
	}
	l.SetUnlinkOnClose(false)
	if err := errors.Join(os.Chmod(sock+".new", 0o600), os.Rename(sock+".new", sock)); err != nil {
		return err
	}
	go func() {
		for {
			conn, err := l.AcceptUnix()
			if err != nil {
				fmt.Fprintln(os.Stderr, "logpump keeper: accept:", err)
				time.Sleep(100 * time.Millisecond)
				continue
			}
			go k.serve(conn)
		}
	}()
	k.supervise()
	os.Remove(sock)
	return nil
}

func (k *keeper) tell() {
	select {
	case k.changed <- struct{}{}:
	default:
	}
}

func (k *keeper) state() (connected, leaving bool) {
	k.mu.Lock()
	defer k.mu.Unlock()
	return k.pumps > 0, k.leaving
}

// supervise starts a pump whenever none is connected, until it may leave.
func (k *keeper) supervise() {
	k.wait(keepGrace) // whoever started us connects
	for delay := respawnMin; ; {
		connected, leaving := k.state()
		switch {
		case leaving:
			return
		case connected:
			delay = respawnMin
			<-k.changed
			continue
		}
		if cmd, err := spawn("--dir", k.dir); err != nil {
			fmt.Fprintln(os.Stderr, "logpump keeper: start the pump:", err)
		} else {
			go cmd.Wait()
			k.wait(keepGrace)
		}
		if connected, leaving = k.state(); !connected && !leaving {
			time.Sleep(delay)
			delay = min(2*delay, respawnMax)
		}
	}
}

// wait returns when a pump is connected, or the keeper may leave, or after d.
func (k *keeper) wait(d time.Duration) {
	t := time.NewTimer(d)
	defer t.Stop()
	for {
		if connected, leaving := k.state(); connected || leaving {
			return
		}
		select {
		case <-k.changed:
		case <-t.C:
			return
		}
	}
}

// serve answers one pump until it dies.
func (k *keeper) serve(conn *net.UnixConn) {
	defer conn.Close()
	k.mu.Lock()
	k.pumps++
	k.mu.Unlock()
	k.tell()
	defer func() {
		k.mu.Lock()
		k.pumps--
		k.mu.Unlock()
		k.tell()
	}()
	buf, oob := make([]byte, keepPacket), make([]byte, syscall.CmsgSpace(4*8))
	for {
		n, oobn, _, _, err := conn.ReadMsgUnix(buf, oob)
		if err != nil || n == 0 {
			return
		}
		fds := descriptors(oob[:oobn])
		var req keepRequest
		if json.Unmarshal(buf[:n], &req) != nil {
			closeAll(fds)
			return
		}
		k.do(req, fds)
		b, _ := json.Marshal(keepResponse{PID: os.Getpid()})
		if _, err := conn.Write(b); err != nil {
			return
		}
	}
}

func (k *keeper) do(req keepRequest, fds []int) {
	k.mu.Lock()
	defer k.mu.Unlock()
	switch req.Op {
	case "hold":
		old := k.held[req.ID]
		k.held[req.ID] = fds
		closeAll(old)
		return
	case "drop":
		closeAll(k.held[req.ID])
		delete(k.held, req.ID)
	case "only":
		keep := map[string]bool{}
		for _, id := range req.IDs {
			keep[id] = true
		}
		for id, old := range k.held {
			if !keep[id] {
				closeAll(old)
				delete(k.held, id)
			}
		}
	case "leave":
		k.leaving = true
		k.tell()
	}
	closeAll(fds)
}

func descriptors(oob []byte) []int {
	msgs, err := syscall.ParseSocketControlMessage(oob)
	if err != nil {
		return nil
	}
	var fds []int
	for i := range msgs {
		if got, err := syscall.ParseUnixRights(&msgs[i]); err == nil {
			fds = append(fds, got...)
		}
	}
	return fds
}

func closeAll(fds []int) {
	for _, fd := range fds {
		syscall.Close(fd)
	}
}

// spawn starts this program again, in a session of its own; the output goes where ours goes.
func spawn(args ...string) (*exec.Cmd, error) {
	cmd := &exec.Cmd{
		Path: "/proc/self/exe", Args: append([]string{os.Args[0]}, args...), Dir: "/", Stdout: os.Stdout, Stderr: os.Stderr,
		SysProcAttr: &syscall.SysProcAttr{Setsid: true},
	}
	return cmd, cmd.Start()
}
