package agent

import (
	"strings"
	"testing"

	v1 "k8s.io/api/core/v1"
)

// TestTerminationMessages: from the file, from a file of another name and user, from the log where the policy says so and
// the container failed; cut to 4096 bytes, and to 80 lines or 2048 bytes of log.
func TestTerminationMessages(t *testing.T) {
	s := open(t)
	for name, c := range map[string]struct {
		fields, command, want string
		code                  int32
	}{
		"file":       {"", "printf DONE > /dev/termination-log", "DONE", 0},
		"path":       {"terminationMessagePath: /tmp/other/log, securityContext: {runAsUser: 10000}", "printf DONE > /tmp/other/log", "DONE", 0},
		"log":        {"terminationMessagePolicy: FallbackToLogsOnError", "printf 'LAST WORDS'; exit 1", "LAST WORDS", 1},
		"log-file":   {"terminationMessagePolicy: FallbackToLogsOnError", "echo no; printf OK > /dev/termination-log; exit 1", "OK", 1},
		"log-good":   {"terminationMessagePolicy: FallbackToLogsOnError", "echo DONE", "", 0},
		"no-message": {"", "echo DONE; exit 1", "", 1},
		"long":       {"", "yes 0123456789abcde | head -c 10000 > /dev/termination-log", strings.Repeat("0123456789abcde\n", 256), 0},
		"long-log":   {"terminationMessagePolicy: FallbackToLogsOnError", "for i in $(seq 200); do echo line$i; done; exit 1", lines(121, 200), 1},
	} {
		t.Run(name, func(t *testing.T) {
			s := s.sub(t)
			fields := ""
			if c.fields != "" {
				fields = c.fields + ", "
			}
			s.pod(name, `{restartPolicy: Never, containers: [{name: c, `+fields+`command: [sh, -c, "`+c.command+`"]}]}`)
			phase := v1.PodSucceeded
			if c.code != 0 {
				phase = v1.PodFailed
			}
			p := s.ended(name, phase)
			if err := terminated(p, "c", c.code); err != nil {
				t.Fatal(err)
			}
			if got := status(p, "c").State.Terminated.Message; got != c.want {
				t.Errorf("message is %d bytes %.80q, want %d %.80q", len(got), got, len(c.want), c.want)
			}
		})
	}
}
