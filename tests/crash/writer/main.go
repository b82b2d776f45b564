// Writer prints numbered lines, until the file "stop" appears in its folder, and keeps a report there: how many lines, and
// how long the longest write took since the file "forget" was there. From its start and from each time that the file
// "burst" is there, it prints as fast as the lines are taken until that was a certain amount, and then at a certain rate.
// It rests while there is a file "rest".
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
	rate := flag.Int64("rate", 1<<20, "bytes a second on average after a burst")
	burst := flag.Int64("burst", 0, "bytes of a burst")
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
	var stop, rest, again atomic.Bool
	go func() {
		for !stop.Load() {
			_, err := os.Stat(filepath.Join(*dir, "rest"))
			rest.Store(err == nil)
			if _, err := os.Stat(filepath.Join(*dir, "stop")); err == nil {
				stop.Store(true)
			}
			if os.Remove(filepath.Join(*dir, "forget")) == nil {
				longest.Store(0)
			}
			if os.Remove(filepath.Join(*dir, "burst")) == nil {
				again.Store(true)
			}
			report(false)
			time.Sleep(20 * time.Millisecond)
		}
	}()
	var buf []byte
	left, start := *burst, time.Now()
	for n := int64(0); ; {
		// Writes of changing size end in the middle of a line more often than not, and some lines are longer than a record.
		for size := 1000 + int(n*7919%9000); len(buf) < size; n++ {
			pad := int(n % 80)
			if n%997 == 0 {
				pad = 20000
			}
			buf = fmt.Appendf(buf, "%d %s\n", n, strings.Repeat(".", pad))
		}
		for rest.Load() && !stop.Load() {
			time.Sleep(20 * time.Millisecond)
			start = start.Add(20 * time.Millisecond) // nothing to catch up with
		}
		part := buf[:len(buf)-int(n%7)]
		began := time.Now()
		if _, err := os.Stdout.Write(part); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		if took := int64(time.Since(began)); took > longest.Load() {
			longest.Store(took)
		}
		if again.Swap(false) {
			left, start = *burst, time.Now()
		}
		if left -= int64(len(part)); left >= 0 {
			start = time.Now()
		} else {
			time.Sleep(time.Until(start.Add(time.Duration(float64(-left) / float64(*rate) * float64(time.Second)))))
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
