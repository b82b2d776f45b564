package podruntime

import (
	"bytes"
	"io"
	"os"
	"path/filepath"
	"strconv"

	v1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"

	"github.com/reevehq/reeve/agent/podworker/podstate"
)

// Limits of termination messages (core/v1 Container.terminationMessagePath and terminationMessagePolicy).
const (
	maxMessageBytes = 4096
	maxLogBytes     = 2048
	maxLogLines     = 80
)

// TerminationMessage returns what a dead container left to say: its termination log, or, when that is empty, the policy
// allows it and the container failed, the end of its log.
func (r *Runtime) TerminationMessage(uid types.UID, c *podstate.Container) string {
	if c.TerminationMessagePath == "" {
		return ""
	}
	path := filepath.Join(r.podDir(uid), "containers", c.Name, strconv.Itoa(int(c.RestartCount)))
	msg := tail(path, maxMessageBytes)
	if msg != "" || c.TerminationMessagePolicy != string(v1.TerminationMessageFallbackToLogsOnError) || c.ExitCode == 0 {
		return msg
	}
	return logTail(c.LogPath)
}

// tail reads the last n bytes of a regular file; "" if it cannot. The container may have put anything in its place.
func tail(path string, n int64) string {
	st, err := os.Lstat(path)
	if err != nil || !st.Mode().IsRegular() {
		return ""
	}
	f, err := os.Open(path)
	if err != nil {
		return ""
	}
	defer f.Close()
	if st.Size() > n {
		if _, err := f.Seek(-n, io.SeekEnd); err != nil {
			return ""
		}
	}
	b, err := io.ReadAll(io.LimitReader(f, n))
	if err != nil {
		return ""
	}
	return string(bytes.ToValidUTF8(b, nil))
}

// logTail returns the last lines of a CRI log, without their prefixes, within the limits.
func logTail(path string) string {
	raw := tail(path, 64<<10)
	var lines [][]byte
	for _, l := range bytes.SplitAfter([]byte(raw), []byte("\n")) {
		// <time> <stream> <tag> <message>; P is a partial line, whose newline is not the container's.
		f := bytes.SplitN(l, []byte(" "), 4)
		if len(f) < 4 {
			continue
		}
		m := f[3]
		if len(f[2]) > 0 && f[2][0] == 'P' {
			m = bytes.TrimSuffix(m, []byte("\n"))
		}
		lines = append(lines, m)
	}
	if len(lines) > maxLogLines {
		lines = lines[len(lines)-maxLogLines:]
	}
	out := bytes.Join(lines, nil)
	if len(out) > maxLogBytes {
		out = out[len(out)-maxLogBytes:]
	}
	return string(out)
}
