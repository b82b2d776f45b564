// Writer prints numbered lines as fast as they are taken, until the file "stop" appears in its folder, and keeps a report
// there: how many lines, and how long the longest write took.
package main

import (
	"encoding/json"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"time"
)

// Report is what the test reads.
type Report struct {
	Lines   int64         `json:"lines"`
	Longest time.Duration `json:"longest"` // one write
	Done    bool          `json:"done"`
}

func main() {
	dir := flag.String("dir", "", "folder of the stop file and the report")
	rate := flag.Int64("rate", 0, "bytes a second on average; 0 for as many as are taken")
	flag.Parse()
	var lines, longest atomic.Int64
	var mu sync.Mutex
	finished := false
	report := func(done bool) {
		mu.Lock()
		defer mu.Unlock()
		if finished {
			return
		}
		finished = done
		b, _ := json.Marshal(Report{lines.Load(), time.Duration(longest.Load()), done})
		tmp := filepath.Join(*dir, "report.new")
		if os.WriteFile(tmp, b, 0o644) == nil {
			os.Rename(tmp, filepath.Join(*dir, "report"))
		}
	}
	var stop atomic.Bool
	go func() {
		for !stop.Load() {
			if _, err := os.Stat(filepath.Join(*dir, "stop")); err == nil {
				stop.Store(true)
			}
			report(false)
			time.Sleep(20 * time.Millisecond)
		}
	}()
	var buf []byte
	var written int64
	start := time.Now()
	for n := int64(0); ; {
		// Writes of changing size end in the middle of a line more often than not, and some lines are longer than a record.
		for size := 1000 + int(n*7919%9000); len(buf) < size; n++ {
			pad := int(n % 80)
			if n%997 == 0 {
				pad = 20000
			}
			buf = fmt.Appendf(buf, "%d %s\n", n, strings.Repeat(".", pad))
		}
		part := buf[:len(buf)-int(n%7)]
		began := time.Now()
		if _, err := os.Stdout.Write(part); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		longest.Store(max(longest.Load(), int64(time.Since(began))))
		written += int64(len(part))
		if *rate > 0 {
			time.Sleep(time.Until(start.Add(time.Duration(float64(written) / float64(*rate) * float64(time.Second)))))
		}
		buf = append(buf[:0], buf[len(part):]...)
		lines.Store(n)
		if stop.Load() {
			os.Stdout.Write(buf)
			break
		}
	}
	report(true)
}
