package native

import (
	"context"
	"errors"
	"net"
	"time"

	"github.com/reevehq/reeve/internal/logpump"
)

// pumpPatience is how long a call waits for a logpump that is being restarted.
const pumpPatience = 5 * time.Second

// pumpClient is logpump.Client for callers who need an answer: while logpump is away it asks again. Every operation of
// logpump may be repeated.
type pumpClient struct{ c logpump.Client }

func (p pumpClient) retry(ctx context.Context, f func() error) error {
	end := time.Now().Add(pumpPatience)
	for wait := 2 * time.Millisecond; ; wait = min(2*wait, 100*time.Millisecond) {
		err := f()
		var op *net.OpError
		if err == nil || !errors.As(err, &op) && !errors.Is(err, errEOF) || time.Now().After(end) {
			return err
		}
		select {
		case <-ctx.Done():
			return err
		case <-time.After(wait):
		}
	}
}

func (p pumpClient) Add(ctx context.Context, id, logPath string, stdin, stderr bool) error {
	return p.retry(ctx, func() error { return p.c.Add(ctx, id, logPath, stdin, stderr) })
}

func (p pumpClient) Reopen(ctx context.Context, id string) error {
	return p.retry(ctx, func() error { return p.c.Reopen(ctx, id) })
}

func (p pumpClient) Finish(ctx context.Context, id string, timeout time.Duration) (drained bool, err error) {
	err = p.retry(ctx, func() (err error) { drained, err = p.c.Finish(ctx, id, timeout); return err })
	return drained, err
}

func (p pumpClient) Remove(ctx context.Context, id string) error {
	return p.retry(ctx, func() error { return p.c.Remove(ctx, id) })
}

func (p pumpClient) CloseStdin(ctx context.Context, id string) error {
	return p.retry(ctx, func() error { return p.c.CloseStdin(ctx, id) })
}

func (p pumpClient) List(ctx context.Context) (ids []string, err error) {
	err = p.retry(ctx, func() (err error) { ids, err = p.c.List(ctx); return err })
	return ids, err
}

func (p pumpClient) Attach(ctx context.Context, id string, stdout, stderr bool) (a *logpump.Attachment, err error) {
	err = p.retry(ctx, func() (err error) { a, err = p.c.Attach(ctx, id, stdout, stderr); return err })
	return a, err
}
