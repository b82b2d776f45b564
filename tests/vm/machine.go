package vm

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/reevehq/reeve/tests/vm/wire"
)

// Options of a machine. The zero value of a field means its default.
type Options struct {
	// Files are put under /payload in the guest, read-only: name there → path here.
	Files map[string]string
	// MemoryMiB. Default: 2048.
	MemoryMiB int
	// Kernel is what the kernel's command line says more.
	Kernel []string
}

const (
	defaultMemoryMiB = 2048
	// bootTimeout: 20 s on an idle host, minutes on one that has ten times the work it can do.
	bootTimeout = 8 * time.Minute
	// mark begins the name of every machine's folder; the number after it is the process that it belongs to.
	mark = "reeve-vm-"
)

// Machine is a running virtual machine. Safe for concurrent use.
type Machine struct {
	dir   string
	qemu  *exec.Cmd
	ended <-chan error
	conn  net.Conn

	mu      sync.Mutex
	nextID  int
	waiting map[int]chan wire.Reply
	gone    error // why no more replies come
}

// Start boots a machine and waits until it takes commands. Close must be called. Files that killed processes left are
// removed first.
func Start(ctx context.Context, o Options) (*Machine, error) {
	if err := Missing(); err != nil {
		return nil, err
	}
	sweep()
	imageDir, err := Image(ctx)
	if err != nil {
		return nil, err
	}
	dir, err := os.MkdirTemp("", mark+strconv.Itoa(os.Getpid())+"-")
	if err != nil {
		return nil, err
	}
	m := &Machine{dir: dir, waiting: map[int]chan wire.Reply{}}
	if err := m.boot(ctx, imageAt(imageDir), o); err != nil {
		err = fmt.Errorf("boot the virtual machine: %w; the end of its console:\n%s", err, lastLines(m.Console(), 30))
		m.Close()
		return nil, err
	}
	return m, nil
}

func (m *Machine) boot(ctx context.Context, img image, o Options) error {
	ctx, cancel := context.WithTimeout(ctx, bootTimeout)
	defer cancel()
	payload, err := m.payload(ctx, o.Files)
	if err != nil {
		return err
	}
	if o.MemoryMiB == 0 {
		o.MemoryMiB = defaultMemoryMiB
	}
	socket := filepath.Join(m.dir, "port")
	// no_timer_check: on a busy host the kernel misses its timer's interrupts at boot, and would look for another timer.
	m.qemu = exec.Command("qemu-system-x86_64",
		"-accel", "tcg,thread=multi", "-cpu", "max", "-smp", "2", "-m", strconv.Itoa(o.MemoryMiB),
		"-nodefaults", "-nographic", "-nic", "none",
		"-kernel", img.kernel, "-initrd", img.initrd,
		"-append", strings.Join(append([]string{"root=/dev/vda rw console=ttyS0 quiet mitigations=off no_timer_check systemd.show_status=0"}, o.Kernel...), " "),
		"-serial", "file:"+filepath.Join(m.dir, "console"),
		// What the guest writes goes into a file that has no name: it is gone with qemu.
		"-drive", "file="+img.disk+",format=raw,if=virtio,snapshot=on",
		"-drive", "file="+payload+",format=raw,if=virtio,readonly=on",
		"-device", "virtio-rng-pci", "-device", "virtio-serial-pci",
		"-chardev", "socket,id=port,path="+socket+",server=on,wait=off", "-device", "virtserialport,chardev=port,name=reeve",
	)
	m.qemu.Env = append(os.Environ(), "TMPDIR="+m.dir)
	var said bytes.Buffer
	m.qemu.Stdout, m.qemu.Stderr = &said, &said
	if m.ended, err = startTied(m.qemu); err != nil {
		return err
	}
	for m.conn == nil {
		select {
		case err := <-m.ended:
			m.qemu = nil
			return fmt.Errorf("qemu ended: %v: %s", err, said.String())
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(20 * time.Millisecond):
			m.conn, _ = net.Dial("unix", socket)
		}
	}
	up := make(chan wire.Reply, 1)
	m.waiting[0] = up
	m.nextID = 1
	go m.read()
	select {
	case r, ok := <-up:
		if !ok || r.Error != "" {
			return fmt.Errorf("lost it: %s", said.String())
		}
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// payload makes the second disk.
func (m *Machine) payload(ctx context.Context, files map[string]string) (string, error) {
	root := filepath.Join(m.dir, "payload")
	if err := os.Mkdir(root, 0o755); err != nil {
		return "", err
	}
	build := exec.CommandContext(ctx, "go", "build", "-ldflags", "-s -w", "-o", filepath.Join(root, "guest"), "github.com/reevehq/reeve/tests/vm/guest")
	build.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := build.CombinedOutput(); err != nil {
		return "", fmt.Errorf("build the guest program: %w: %s", err, out)
	}
	size := int64(0)
	for name, path := range files {
		if err := copyFile(filepath.Join(root, name), path); err != nil {
			return "", err
		}
		if fi, err := os.Stat(path); err == nil {
			size += fi.Size()
		}
	}
	disk := filepath.Join(m.dir, "payload.ext4")
	mib := 32 + size*5/4>>20
	out, err := exec.CommandContext(ctx, "mke2fs", "-q", "-t", "ext4", "-O", "^has_journal", "-d", root, disk, strconv.FormatInt(mib, 10)+"M").CombinedOutput()
	if err != nil {
		return "", fmt.Errorf("make the disk of files: %w: %s", err, out)
	}
	return disk, os.RemoveAll(root)
}

func copyFile(to, from string) error {
	in, err := os.Open(from)
	if err != nil {
		return err
	}
	defer in.Close()
	if err := os.MkdirAll(filepath.Dir(to), 0o755); err != nil {
		return err
	}
	fi, err := in.Stat()
	if err != nil {
		return err
	}
	out, err := os.OpenFile(to, os.O_CREATE|os.O_WRONLY|os.O_EXCL, fi.Mode().Perm())
	if err != nil {
		return err
	}
	if _, err := io.Copy(out, in); err != nil {
		out.Close()
		return err
	}
	return out.Close()
}

// read hands the guest's replies to those who wait for them, until the port closes.
func (m *Machine) read() {
	in := bufio.NewReader(m.conn)
	var err error
	for {
		var line []byte
		if line, err = in.ReadBytes('\n'); err != nil {
			break
		}
		var r wire.Reply
		if json.Unmarshal(line, &r) != nil {
			continue
		}
		m.mu.Lock()
		c := m.waiting[r.ID]
		m.mu.Unlock()
		if c != nil {
			c <- r
		}
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	m.gone = fmt.Errorf("the virtual machine is gone: %w", err)
	for id, c := range m.waiting {
		close(c)
		delete(m.waiting, id)
	}
}

// Command is what Run executes in the guest.
type Command struct {
	Args []string
	Env  []string // added to the guest program's
	Dir  string
	// Timeout kills the command. Default: 10 min.
	Timeout time.Duration
	// Output receives what the command writes, as it comes. Optional.
	Output io.Writer
}

// Result of a command.
type Result struct {
	Code   int    // -1: killed, or never started
	Output string // both streams
}

const (
	defaultTimeout = 10 * time.Minute
	// answerGrace is how much later than the command's timeout the guest may answer.
	answerGrace = time.Minute
)

// Run executes a command in the guest and waits for its end. The error says that it could not be run, not that it failed.
func (m *Machine) Run(ctx context.Context, c Command) (Result, error) {
	if c.Timeout == 0 {
		c.Timeout = defaultTimeout
	}
	ctx, cancel := context.WithTimeout(ctx, c.Timeout+answerGrace)
	defer cancel()
	replies := make(chan wire.Reply, 64)
	m.mu.Lock()
	if m.gone != nil {
		m.mu.Unlock()
		return Result{Code: -1}, m.gone
	}
	id := m.nextID
	m.nextID++
	m.waiting[id] = replies
	line, err := json.Marshal(wire.Request{ID: id, Args: c.Args, Env: c.Env, Dir: c.Dir, TimeoutSeconds: c.Timeout.Seconds()})
	if err == nil {
		_, err = m.conn.Write(append(line, '\n'))
	}
	m.mu.Unlock()
	if err != nil {
		return Result{Code: -1}, fmt.Errorf("ask the virtual machine: %w", err)
	}
	var out bytes.Buffer
	for {
		select {
		case r, ok := <-replies:
			switch {
			case !ok:
				return Result{-1, out.String()}, m.gone
			case r.Error != "":
				return Result{-1, out.String()}, fmt.Errorf("run %q in the virtual machine: %s", c.Args, r.Error)
			case r.Done:
				m.mu.Lock()
				delete(m.waiting, id)
				m.mu.Unlock()
				return Result{r.ExitCode, out.String()}, nil
			}
			out.Write(r.Output)
			if c.Output != nil {
				_, _ = c.Output.Write(r.Output)
			}
		case <-ctx.Done():
			// The reader must not block on what nobody takes.
			go func() {
				for r := range replies {
					if r.Done {
						return
					}
				}
			}()
			return Result{-1, out.String()}, fmt.Errorf("run %q in the virtual machine: %w", c.Args, ctx.Err())
		}
	}
}

// Sh runs a shell script.
func (m *Machine) Sh(ctx context.Context, script string) (Result, error) {
	return m.Run(ctx, Command{Args: []string{"sh", "-c", script}})
}

// Console is what the kernel and systemd wrote to the serial console.
func (m *Machine) Console() string {
	b, _ := os.ReadFile(filepath.Join(m.dir, "console"))
	return string(b)
}

// Close ends the machine and removes its files.
func (m *Machine) Close() error {
	if m.qemu != nil {
		_ = m.qemu.Process.Kill()
		<-m.ended
	}
	if m.conn != nil {
		_ = m.conn.Close()
	}
	return os.RemoveAll(m.dir)
}

// sweep removes the folders of processes that are gone. Their qemus died with them.
func sweep() {
	old, _ := filepath.Glob(filepath.Join(os.TempDir(), mark+"*"))
	for _, dir := range old {
		pid, _, _ := strings.Cut(strings.TrimPrefix(filepath.Base(dir), mark), "-")
		if n, err := strconv.Atoi(pid); err == nil && n > 1 && syscall.Kill(n, 0) == syscall.ESRCH {
			os.RemoveAll(dir)
		}
	}
}

func lastLines(s string, n int) string {
	lines := strings.Split(strings.TrimRight(s, "\n"), "\n")
	return strings.Join(lines[max(0, len(lines)-n):], "\n")
}
