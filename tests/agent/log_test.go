package agent

import (
	"bufio"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	v1 "k8s.io/api/core/v1"
)

// TestLogFormat: the files lie where collectors look, in CRI's format, with both streams and long and unfinished lines
// marked; the links in containers/ lead there; all of it goes with the pod.
func TestLogFormat(t *testing.T) {
	s := open(t)
	s.pod("p", `{restartPolicy: Never, containers: [{name: c, command: [sh, -c, "echo out; echo err >&2; head -c 20000 /dev/zero | tr '\\0' x; echo; printf unfinished"]}]}`)
	p := s.ended("p", v1.PodSucceeded)
	file := filepath.Join(s.logDir(p), "c", "0.log")
	b, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	record := regexp.MustCompile(`^(\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d+(?:Z|[+-]\d\d:\d\d)) (stdout|stderr) (P|F) (.*)$`)
	var got []string
	for line := range strings.Lines(string(b)) {
		m := record.FindStringSubmatch(strings.TrimSuffix(line, "\n"))
		if m == nil {
			t.Fatalf("no record of CRI's format: %.80q", line)
		}
		got = append(got, fmt.Sprintf("%s %s %d", m[2], m[3], len(m[4])))
	}
	if strings.Join(sorted(got), ", ") != "stderr F 3, stdout F 3, stdout F 3616, stdout P 10, stdout P 16384" {
		t.Errorf("records: %q", got)
	}
	id := strings.TrimPrefix(status(p, "c").ContainerID, "containerd://")
	link := filepath.Join(s.Dir, "containers", "p_"+s.ns+"_c-"+id+".log")
	if to, err := os.Readlink(link); err != nil || to != file {
		t.Errorf("link %s leads to %q, %v; want %s", link, to, err, file)
	}
	if got := s.logs("p", "c"); !strings.HasSuffix(got, "\nunfinished") {
		t.Errorf("the log's end is %q", got[max(0, len(got)-20):])
	}
	s.delete("p")
	s.gone("p")
	s.noLogs(p)
	s.eventually("the link to be gone", func() error { return absent(link) })
}

// TestLogRotation: a log over 10 Mi is rotated while its container writes; who follows, and who reads it all later, gets
// every line once and in order.
func TestLogRotation(t *testing.T) {
	s := open(t)
	const first, all = 260_000, 261_000
	s.pod("p", fmt.Sprintf(`{restartPolicy: Never, containers: [{name: c, command: [sh, -c, "seq 1 %d; until test -e /story/go; do sleep 0.1; done; seq %d %d"]}]}`, first, first+1, all))
	p := s.running("p")
	stream, err := s.pods().GetLogs("p", &v1.PodLogOptions{Container: "c", Follow: true}).Stream(s.ctx())
	if err != nil {
		t.Fatal(err)
	}
	defer stream.Close()
	counted := make(chan string, 1)
	go func() { counted <- count(bufio.NewScanner(stream), all) }()
	s.eventually("a rotated file", func() error {
		files, err := filepath.Glob(filepath.Join(s.logDir(p), "c", "0.log.*"))
		if err == nil && len(files) == 0 {
			err = fmt.Errorf("there is none")
		}
		return err
	})
	s.write("go", "")
	s.ended("p", v1.PodSucceeded)
	if why := <-counted; why != "" {
		t.Errorf("following: %s", why)
	}
	if why := count(bufio.NewScanner(strings.NewReader(s.logs("p", "c"))), all); why != "" {
		t.Errorf("reading later: %s", why)
	}
}

// count says what is wrong with lines that should be the numbers from 1 to n.
func count(lines *bufio.Scanner, n int) string {
	want := 1
	for ; lines.Scan(); want++ {
		if lines.Text() != fmt.Sprint(want) {
			return fmt.Sprintf("line %d is %q", want, lines.Text())
		}
	}
	if want != n+1 {
		return fmt.Sprintf("it ends after %d of %d lines (%v)", want-1, n, lines.Err())
	}
	return ""
}
