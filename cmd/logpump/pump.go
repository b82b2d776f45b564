package main

import (
	"bufio"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/reevehq/reeve/internal/logpump"
)

// requestBytes bounds one request line.
const requestBytes = 64 << 10

var errUnknown = errors.New("unknown container")

// pump is the set of containers and the control socket.
type pump struct {
	dir  string
	keep *keep
	exit chan struct{}

	keeping sync.Mutex // held while the keeper is looked for
	once    sync.Once  // closes exit

	mu         sync.Mutex
	containers map[string]*container
}

func newPump(dir string) *pump {
	p := &pump{dir: dir, exit: make(chan struct{}), containers: map[string]*container{}}
	p.keep = &keep{dir: dir, lost: p.rekeep}
	return p
}

// serve takes over what a predecessor left, then answers requests until an exit request.
func (p *pump) serve() error {
	entries, err := os.ReadDir(filepath.Join(p.dir, "c"))
	if err != nil {
		return err
	}
	for _, e := range entries {
		if err := p.adopt(e.Name()); err != nil {
			fmt.Fprintf(os.Stderr, "logpump: take over container %s: %v\n", e.Name(), err)
		}
	}
	if err := p.tryKeep(); err != nil {
		fmt.Fprintln(os.Stderr, "logpump: nobody else holds the containers' output:", err)
		go p.rekeep()
	}
	sock := logpump.SocketPath(p.dir)
	if err := os.Remove(sock); err != nil && !os.IsNotExist(err) {
		return err
	}
	// Bound under another name and renamed once its mode is right: nobody can connect too early.
	l, err := net.Listen("unix", sock+".new")
	if err != nil {
		return err
	}
	l.(*net.UnixListener).SetUnlinkOnClose(false)
	if err := errors.Join(os.Chmod(sock+".new", 0o600), os.Rename(sock+".new", sock)); err != nil {
		return err
	}
	go func() {
		<-p.exit
		l.Close()
	}()
	for {
		conn, err := l.Accept()
		if err != nil {
			select {
			case <-p.exit:
				p.keep.leave()
				os.Remove(sock)
				return nil
			default:
			}
			fmt.Fprintln(os.Stderr, "logpump: accept:", err)
			time.Sleep(100 * time.Millisecond) // out of descriptors, most likely
			continue
		}
		go p.handle(conn)
	}
}

// adopt opens a container again from its folder. A folder without configuration is half an add, and is removed.
func (p *pump) adopt(id string) error {
	dir := logpump.PathsOf(p.dir, id).Dir
	b, err := os.ReadFile(filepath.Join(dir, "config.json"))
	if errors.Is(err, os.ErrNotExist) {
		return os.RemoveAll(dir)
	}
	if err != nil {
		return err
	}
	var cfg config
	if err := json.Unmarshal(b, &cfg); err != nil {
		return fmt.Errorf("read config.json: %w", err)
	}
	return p.open(id, cfg)
}

func (p *pump) open(id string, cfg config) error {
	c, err := openContainer(p.dir, id, cfg)
	if err != nil {
		return err
	}
	p.containers[id] = c
	for _, s := range c.streams {
		go s.run()
	}
	return nil
}

func (p *pump) handle(conn net.Conn) {
	defer conn.Close()
	r := bufio.NewReaderSize(conn, 1024)
	for {
		line, err := readLine(r)
		if err != nil {
			return
		}
		var req logpump.Request
		var resp logpump.Response
		if err := json.Unmarshal(line, &req); err != nil {
			resp.Err = "bad request: " + err.Error()
		} else if req.Op == logpump.OpAttach {
			p.attach(conn, req)
			return
		} else if err := p.do(req, &resp); err != nil {
			resp.Err, resp.Missing = err.Error(), errors.Is(err, errUnknown)
		}
		b, err := json.Marshal(resp)
		if err != nil {
			return
		}
		if _, err := conn.Write(append(b, '\n')); err != nil {
			return
		}
		if req.Op == logpump.OpExit && resp.Err == "" {
			p.once.Do(func() { close(p.exit) })
			return
		}
	}
}

func readLine(r *bufio.Reader) ([]byte, error) {
	var line []byte
	for {
		part, err := r.ReadSlice('\n')
		line = append(line, part...)
		if err == nil {
			return line, nil
		}
		if !errors.Is(err, bufio.ErrBufferFull) || len(line) > requestBytes {
			return nil, err
		}
	}
}

func (p *pump) do(req logpump.Request, resp *logpump.Response) error {
	switch req.Op {
	case logpump.OpPing:
		resp.PID, resp.Version, resp.KeeperPID = os.Getpid(), logpump.Version, p.keep.keeperPID()
		return nil
	case logpump.OpList:
		resp.IDs = p.ids()
		slices.Sort(resp.IDs)
		return nil
	case logpump.OpExit:
		p.mu.Lock()
		defer p.mu.Unlock()
		if n := len(p.containers); n > 0 && !req.Force {
			return fmt.Errorf("%d containers are still known", n)
		}
		return nil
	}
	if req.ID == "" || strings.ContainsAny(req.ID, "/\x00") || req.ID == "." || req.ID == ".." {
		return fmt.Errorf("invalid container id %q", req.ID)
	}
	switch req.Op {
	case logpump.OpAdd:
		c, err := p.add(req)
		if c == nil {
			return err
		}
		if err := p.keep.hold(c); err != nil && !errors.Is(err, errNoKeeper) {
			fmt.Fprintf(os.Stderr, "logpump: container %s: hand over to the keeper: %v\n", req.ID, err)
		}
		return nil
	case logpump.OpReopen:
		c, err := p.find(req.ID)
		if err != nil {
			return err
		}
		return c.reopen()
	case logpump.OpCloseStdin:
		c, err := p.find(req.ID)
		if err != nil {
			return err
		}
		c.closeStdin()
		return nil
	case logpump.OpFinish, logpump.OpRemove:
		c, err := p.find(req.ID)
		if err != nil {
			return err
		}
		var timeout time.Duration
		if req.Op == logpump.OpFinish {
			timeout = time.Duration(req.TimeoutMillis) * time.Millisecond
		}
		resp.Drained = c.finish(timeout)
		defer p.keep.drop(req.ID) // after the lock is given back
		p.mu.Lock()
		defer p.mu.Unlock()
		if p.containers[req.ID] == c {
			delete(p.containers, req.ID)
			return os.RemoveAll(c.paths.Dir)
		}
		return nil
	}
	return fmt.Errorf("unknown op %q", req.Op)
}

// add makes a container known. It answers nil without error for one that is.
func (p *pump) add(req logpump.Request) (*container, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.containers[req.ID] != nil {
		return nil, nil
	}
	if req.LogPath != "" && !filepath.IsAbs(req.LogPath) {
		return nil, fmt.Errorf("log path %q is not absolute", req.LogPath)
	}
	if err := p.open(req.ID, config{Version: logpump.Version, LogPath: req.LogPath, Stdin: req.Stdin, Stderr: req.Stderr}); err != nil {
		os.RemoveAll(logpump.PathsOf(p.dir, req.ID).Dir)
		return nil, err
	}
	return p.containers[req.ID], nil
}

func (p *pump) find(id string) (*container, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	c := p.containers[id]
	if c == nil {
		return nil, errUnknown
	}
	return c, nil
}

func (p *pump) attach(conn net.Conn, req logpump.Request) {
	var resp logpump.Response
	c, err := p.find(req.ID)
	cl := newClient(req.Stdout, req.Stderr)
	if err == nil {
		c.mu.Lock()
		if c.closed {
			err = errUnknown
		} else {
			c.clients[cl] = true
		}
		c.mu.Unlock()
	}
	if err != nil {
		resp.Err, resp.Missing = err.Error(), errors.Is(err, errUnknown)
	}
	b, _ := json.Marshal(resp)
	if _, werr := conn.Write(append(b, '\n')); werr != nil || err != nil {
		if c != nil {
			c.mu.Lock()
			delete(c.clients, cl)
			c.mu.Unlock()
		}
		return
	}
	stop := make(chan struct{})
	go func() { // the end of the streams ends the attachment even when nobody has asked to finish yet
		for _, s := range c.streams {
			select {
			case <-s.done:
			case <-stop:
				return
			}
		}
		cl.end()
	}()
	cl.run(conn)
	close(stop)
	c.mu.Lock()
	delete(c.clients, cl)
	c.mu.Unlock()
}
