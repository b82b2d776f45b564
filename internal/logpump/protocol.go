package logpump

import (
	"path/filepath"
)

// Version of the protocol. A client that meets another major number must start its own logpump when that one has ended.
const Version = 1

// Ops of a Request.
const (
	OpPing       = "ping"
	OpAdd        = "add"        // make and open the FIFOs of ID; idempotent
	OpReopen     = "reopen"     // close the log file and open its path anew
	OpFinish     = "finish"     // wait for the end of the streams, at most TimeoutMillis, then forget ID
	OpRemove     = "remove"     // forget ID now
	OpAttach     = "attach"     // the connection becomes a stream of frames
	OpCloseStdin = "closestdin" // give up the FIFO's write end that keeps stdin from ending
	OpList       = "list"
	OpExit       = "exit" // leave; refused while containers are known, unless Force
)

// Request is one line of JSON from client to logpump.
type Request struct {
	Op            string `json:"op"`
	ID            string `json:"id,omitempty"`
	Stdin         bool   `json:"stdin,omitempty"`  // add: make a stdin FIFO and hold it open
	Stdout        bool   `json:"stdout,omitempty"` // attach: which streams
	Stderr        bool   `json:"stderr,omitempty"` // add: there is a stderr FIFO (not with a terminal); attach
	LogPath       string `json:"logPath,omitempty"`
	TimeoutMillis int64  `json:"timeoutMillis,omitempty"`
	Force         bool   `json:"force,omitempty"`
}

// Response is one line of JSON back. Err is empty on success.
type Response struct {
	Err     string `json:"err,omitempty"`
	Missing bool   `json:"missing,omitempty"` // Err says that ID is unknown
	Version int    `json:"version,omitempty"`
	PID     int    `json:"pid,omitempty"`
	// KeeperPID is the process that holds the FIFOs as well; 0 without one.
	KeeperPID int      `json:"keeperPID,omitempty"`
	IDs       []string `json:"ids,omitempty"`
	Drained   bool     `json:"drained,omitempty"` // finish: every stream reached its end in time
}

// Frames of an attach: one byte of stream, four bytes of length (big endian), then the data. The connection's end is the
// end of the container's output, or of the logpump.
const (
	FrameStdout = 1
	FrameStderr = 2
	FrameHeader = 5
)

// Paths are where one container's FIFOs and state lie.
type Paths struct{ Dir, Stdin, Stdout, Stderr string }

// PathsOf returns the paths of container id for a logpump whose folder is dir.
func PathsOf(dir, id string) Paths {
	d := filepath.Join(dir, "c", id)
	return Paths{Dir: d, Stdin: filepath.Join(d, "stdin"), Stdout: filepath.Join(d, "stdout"), Stderr: filepath.Join(d, "stderr")}
}

// SocketPath returns the control socket of the logpump whose folder is dir.
func SocketPath(dir string) string { return filepath.Join(dir, "sock") }

// LockPath returns the file that a running logpump holds locked with flock(2).
func LockPath(dir string) string { return filepath.Join(dir, "lock") }

// KeeperSocketPath and KeeperLockPath are the same of the keeper, the pump's second process.
func KeeperSocketPath(dir string) string { return filepath.Join(dir, "keep") }
func KeeperLockPath(dir string) string   { return filepath.Join(dir, "keep.lock") }

// MaxSocketPath is the longest path that the kernel takes for a unix socket.
const MaxSocketPath = 107
