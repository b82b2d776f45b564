package logpump

import (
	"bufio"
	"context"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"time"
)

// callTimeout bounds one control call; logpump answers from memory and a few file operations.
const callTimeout = 10 * time.Second

// ErrUnknown says that logpump does not know the container.
var ErrUnknown = errors.New("container is unknown to logpump")

// Client talks to the logpump of one folder. It opens a connection a call, keeps nothing, and is safe for concurrent
// use; the zero value is not usable.
type Client struct{ Dir string }

func (c Client) dial(ctx context.Context) (net.Conn, error) {
	var d net.Dialer
	return d.DialContext(ctx, "unix", SocketPath(c.Dir))
}

func (c Client) call(ctx context.Context, req Request, timeout time.Duration) (Response, error) {
	ctx, cancel := context.WithTimeout(ctx, timeout)
	defer cancel()
	conn, _, resp, err := c.open(ctx, req)
	if conn != nil {
		conn.Close()
	}
	return resp, err
}

// open sends req and reads the answer; the connection stays open and the caller closes it. It honours ctx until then.
func (c Client) open(ctx context.Context, req Request) (net.Conn, *bufio.Reader, Response, error) {
	var resp Response
	conn, err := c.dial(ctx)
	if err != nil {
		return nil, nil, resp, fmt.Errorf("reach logpump: %w", err)
	}
	stop := context.AfterFunc(ctx, func() { conn.SetDeadline(time.Unix(1, 0)) })
	defer stop()
	b, err := json.Marshal(req)
	if err == nil {
		_, err = conn.Write(append(b, '\n'))
	}
	r := bufio.NewReaderSize(conn, 512)
	if err == nil {
		var line []byte
		if line, err = r.ReadBytes('\n'); err == nil {
			err = json.Unmarshal(line, &resp)
		}
	}
	if err != nil {
		conn.Close()
		if ctx.Err() != nil {
			err = ctx.Err()
		}
		return nil, nil, resp, fmt.Errorf("%s %q at logpump: %w", req.Op, req.ID, err)
	}
	switch {
	case resp.Missing:
		err = fmt.Errorf("%s %q at logpump: %w", req.Op, req.ID, ErrUnknown)
	case resp.Err != "":
		err = fmt.Errorf("%s %q at logpump: %s", req.Op, req.ID, resp.Err)
	}
	return conn, r, resp, err
}

// Ping returns the pid and protocol version of the running logpump.
func (c Client) Ping(ctx context.Context) (pid, version int, err error) {
	resp, err := c.call(ctx, Request{Op: OpPing}, callTimeout)
	return resp.PID, resp.Version, err
}

// PIDs returns the processes of the running logpump: the pump and its keeper, which is 0 when there is none.
func (c Client) PIDs(ctx context.Context) (pump, keeper int, err error) {
	resp, err := c.call(ctx, Request{Op: OpPing}, callTimeout)
	return resp.PID, resp.KeeperPID, err
}

// Add makes the FIFOs of a container, opens them, and writes what comes to logPath (nowhere when empty). stderr is false
// for a container with a terminal. When it returns, writers may open the FIFOs. Adding again is a no-op.
func (c Client) Add(ctx context.Context, id, logPath string, stdin, stderr bool) error {
	_, err := c.call(ctx, Request{Op: OpAdd, ID: id, LogPath: logPath, Stdin: stdin, Stderr: stderr}, callTimeout)
	return err
}

// Reopen closes the log file, which the caller has renamed, and creates its path anew. No line is lost or split.
func (c Client) Reopen(ctx context.Context, id string) error {
	_, err := c.call(ctx, Request{Op: OpReopen, ID: id}, callTimeout)
	return err
}

// Finish waits until everything that the container wrote is in its log, at most timeout, and forgets the container.
// drained is false when something still held the output open then; its later output goes nowhere. An unknown container
// is fine.
func (c Client) Finish(ctx context.Context, id string, timeout time.Duration) (drained bool, err error) {
	resp, err := c.call(ctx, Request{Op: OpFinish, ID: id, TimeoutMillis: timeout.Milliseconds()}, timeout+callTimeout)
	if errors.Is(err, ErrUnknown) {
		return true, nil
	}
	return resp.Drained, err
}

// Remove forgets a container without waiting for its output. An unknown container is fine.
func (c Client) Remove(ctx context.Context, id string) error {
	_, err := c.call(ctx, Request{Op: OpRemove, ID: id}, callTimeout)
	if errors.Is(err, ErrUnknown) {
		return nil
	}
	return err
}

// CloseStdin lets the container's stdin end when its last writer closes it.
func (c Client) CloseStdin(ctx context.Context, id string) error {
	_, err := c.call(ctx, Request{Op: OpCloseStdin, ID: id}, callTimeout)
	return err
}

// List returns the containers that logpump knows.
func (c Client) List(ctx context.Context) ([]string, error) {
	resp, err := c.call(ctx, Request{Op: OpList}, callTimeout)
	return resp.IDs, err
}

// Exit asks logpump to leave. Without force it refuses while it knows containers.
func (c Client) Exit(ctx context.Context, force bool) error {
	_, err := c.call(ctx, Request{Op: OpExit, Force: force}, callTimeout)
	return err
}

// ErrSink is wrapped by Copy when the output could not be passed on, usually because its reader has left.
var ErrSink = errors.New("pass on output")

// Attachment is a live view of a container's output, from the moment of Attach on.
type Attachment struct {
	conn net.Conn
	r    *bufio.Reader
}

// Attach follows a container's output. When it returns, everything written from then on will come. A reader that is
// slow loses data rather than stalling the container.
func (c Client) Attach(ctx context.Context, id string, stdout, stderr bool) (*Attachment, error) {
	ctx, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	conn, r, _, err := c.open(ctx, Request{Op: OpAttach, ID: id, Stdout: stdout, Stderr: stderr})
	if err != nil {
		if conn != nil {
			conn.Close()
		}
		return nil, err
	}
	return &Attachment{conn: conn, r: r}, nil
}

// Copy writes the output to stdout and stderr (either may be nil) until it ends (nil), a write fails, or Close is called.
func (a *Attachment) Copy(stdout, stderr io.Writer) error {
	var head [FrameHeader]byte
	for {
		if _, err := io.ReadFull(a.r, head[:]); err != nil {
			if err == io.EOF {
				return nil
			}
			return fmt.Errorf("read output from logpump: %w", err)
		}
		w := stdout
		if head[0] == FrameStderr {
			w = stderr
		}
		if w == nil {
			w = io.Discard
		}
		if _, err := io.CopyN(w, a.r, int64(binary.BigEndian.Uint32(head[1:]))); err != nil {
			return fmt.Errorf("%w: %w", ErrSink, err)
		}
	}
}

// Close ends the attachment; a Copy under way returns.
func (a *Attachment) Close() error { return a.conn.Close() }
