package testns

import (
	"bufio"
	"fmt"
	"net"
	"os"
	"os/exec"
	"runtime"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// Sh runs a shell command and fails the test with its output when it fails.
func Sh(t testing.TB, format string, args ...any) string {
	t.Helper()
	command := fmt.Sprintf(format, args...)
	out, err := exec.Command("sh", "-c", command).CombinedOutput()
	if err != nil {
		t.Fatalf("%s: %v\n%s", command, err, out)
	}
	return string(out)
}

// Host is a namespace of a test, with a name for messages. The zero value is the namespace that the test runs in.
type Host struct{ Name, Path string }

// NewHost makes a namespace (`ip netns add`, in the test's own /run) that is gone after the test.
func NewHost(t testing.TB, name string) Host {
	t.Helper()
	Sh(t, "ip netns add %s && ip -n %[1]s link set lo up", name)
	t.Cleanup(func() { Sh(t, "ip netns del %s", name) })
	return Host{Name: name, Path: "/run/netns/" + name}
}

// Do runs fn on a thread in the host's namespace and waits. Sockets that it opens stay there.
func (h Host) Do(fn func() error) error {
	if h.Path == "" {
		return fn()
	}
	done := make(chan error, 1)
	go func() {
		runtime.LockOSThread() // never unlocked: the thread ends with the goroutine
		fd, err := unix.Open(h.Path, unix.O_RDONLY|unix.O_CLOEXEC, 0)
		if err != nil {
			done <- err
			return
		}
		defer unix.Close(fd)
		if err := unix.Setns(fd, unix.CLONE_NEWNET); err != nil {
			done <- err
			return
		}
		done <- fn()
	}()
	return <-done
}

// Serve answers on TCP and UDP, on an address like ":8080", every connection and datagram with "name clientIP\n", until
// the test ends.
func (h Host) Serve(t testing.TB, name, address string) {
	t.Helper()
	var l net.Listener
	var p net.PacketConn
	if err := h.Do(func() (err error) {
		if l, err = net.Listen("tcp", address); err != nil {
			return err
		}
		p, err = net.ListenPacket("udp", address)
		return err
	}); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _, _ = l.Close(), p.Close() })
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			go func() {
				defer c.Close()
				host, _, _ := net.SplitHostPort(c.RemoteAddr().String())
				fmt.Fprintf(c, "%s %s\n", name, host)
				// A client that sends lines gets each back: a connection that lives.
				in := bufio.NewScanner(c)
				for in.Scan() {
					fmt.Fprintf(c, "%s\n", in.Text())
				}
			}()
		}
	}()
	go func() {
		buf := make([]byte, 100)
		for {
			_, from, err := p.ReadFrom(buf)
			if err != nil {
				return
			}
			host, _, _ := net.SplitHostPort(from.String())
			_, _ = p.WriteTo([]byte(name+" "+host+"\n"), from)
		}
	}()
}

// askTimeout is how long an answer is waited for that may not come, and Patience how long for one that must: on a busy
// host what needs no time takes long.
var (
	askTimeout = 1500 * time.Millisecond
	Patience   = 20 * time.Second
)

func init() {
	if os.Getenv("REEVE_VM") == "1" {
		askTimeout, eventually = 3*askTimeout, 6*eventually // the virtual machine is slow
	}
}

// Dial connects from the host, where that may fail.
func (h Host) Dial(network, address string) (net.Conn, error) {
	return h.DialFor(network, address, askTimeout)
}

// DialFor is Dial with a time limit.
func (h Host) DialFor(network, address string, timeout time.Duration) (net.Conn, error) {
	var c net.Conn
	err := h.Do(func() (err error) {
		c, err = net.DialTimeout(network, address, timeout)
		return err
	})
	return c, err
}

// Ask connects (network tcp) or sends a datagram (udp), and answers the server's line, which may not come.
func (h Host) Ask(network, address string) (string, error) {
	return h.askFor(network, address, askTimeout)
}

// Answer is Ask where an answer must come.
func (h Host) Answer(network, address string) (string, error) {
	return h.askFor(network, address, Patience)
}

func (h Host) askFor(network, address string, timeout time.Duration) (string, error) {
	c, err := h.DialFor(network, address, timeout)
	if err != nil {
		return "", err
	}
	defer c.Close()
	return TalkFor(c, timeout)
}

// Talk asks for one more line, which may not come: a datagram is sent, a stream is only read.
func Talk(c net.Conn) (string, error) { return TalkFor(c, askTimeout) }

// TalkFor is Talk with a time limit.
func TalkFor(c net.Conn, timeout time.Duration) (string, error) {
	_ = c.SetDeadline(time.Now().Add(timeout))
	if c.RemoteAddr().Network() == "udp" {
		if _, err := c.Write([]byte("hello\n")); err != nil {
			return "", err
		}
	}
	line, err := bufio.NewReaderSize(c, 128).ReadString('\n')
	return strings.TrimSpace(line), err
}

// MustSay fails the test unless the answer is want.
func (h Host) MustSay(t testing.TB, network, address, want string) {
	t.Helper()
	if got, err := h.Answer(network, address); err != nil || got != want {
		t.Errorf("%s asked %s %s: got %q, %v; want %q", h, network, address, got, err, want)
	}
}

func (h Host) String() string {
	if h.Path == "" {
		return "the node"
	}
	return h.Name
}

// eventually is how long Eventually waits.
var eventually = 30 * time.Second

// Eventually waits until ok answers true, looking every 5 ms for up to 30 s, and longer in the virtual machine.
func Eventually(t testing.TB, what string, ok func() bool) {
	t.Helper()
	for deadline := time.Now().Add(eventually); time.Now().Before(deadline); time.Sleep(5 * time.Millisecond) {
		if ok() {
			return
		}
	}
	t.Fatalf("waited %v for: %s", eventually, what)
}
