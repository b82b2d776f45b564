package node

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
)

// Processes are the pids whose command line contains every part.
func Processes(parts ...string) []int {
	var pids []int
	paths, _ := filepath.Glob("/proc/[0-9]*/cmdline")
	for _, path := range paths {
		b, err := os.ReadFile(path)
		if err != nil {
			continue
		}
		line := strings.ReplaceAll(string(b), "\x00", " ")
		all := true
		for _, p := range parts {
			all = all && strings.Contains(line, p)
		}
		var pid int
		if _, err := fmt.Sscanf(path, "/proc/%d/cmdline", &pid); err == nil && all && pid != os.Getpid() && pid != 1 {
			pids = append(pids, pid)
		}
	}
	return pids
}
