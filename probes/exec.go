package probes

import (
	"context"
	"errors"
	"fmt"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	corev1 "k8s.io/api/core/v1"

	"github.com/reevehq/reeve/internal/expansion"
)

// execSlack is how much longer than its own time-out an exec may take to report that it timed out (the runtime kills the
// command and waits for it).
const execSlack = 5 * time.Second

// maxOutput bounds what of a command's or page's output stands in an event: 10 KiB, as kubelet.
const maxOutput = 10 << 10

func (p *netProber) probeExec(ctx context.Context, t target, a *corev1.ExecAction, timeout time.Duration) (answer, error) {
	if p.exec == nil {
		return answer{}, errors.New("exec probe: no way to run commands in containers is configured")
	}
	ctx, cancel := context.WithTimeout(ctx, timeout+execSlack)
	defer cancel()
	code, out, err := p.exec(ctx, t.containerID, expandCommand(a.Command, t.container), timeout)
	if err != nil {
		if errors.Is(err, context.DeadlineExceeded) || status.Code(err) == codes.DeadlineExceeded {
			// Not subject to the starvation rule of network probes: the runtime keeps the time.
			return failure("command timed out: %q timed out after %v", a.Command, timeout), nil
		}
		return answer{}, fmt.Errorf("exec in container %q: %w", t.container.Name, err)
	}
	if len(out) > maxOutput {
		out = out[:maxOutput]
	}
	if code != 0 {
		return answer{result: Failure, message: string(out)}, nil
	}
	return answer{result: Success, message: string(out)}, nil
}

// expandCommand resolves $(VAR) in the command from the container's literal environment, as kubelet does for probes.
func expandCommand(cmd []string, c *corev1.Container) []string {
	env := func(name string) (string, bool) {
		for i := range c.Env {
			if c.Env[i].Name == name && c.Env[i].ValueFrom == nil {
				return c.Env[i].Value, true
			}
		}
		return "", false
	}
	out := make([]string, len(cmd))
	for i, s := range cmd {
		out[i] = expansion.Expand(s, env)
	}
	return out
}
