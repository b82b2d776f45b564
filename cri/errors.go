package cri

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
)

// ErrExecTimedOut is wrapped by ExecSync when the command outlived its timeout; the command has been killed by then.
var ErrExecTimedOut = errors.New("command timed out")

// execTimeoutError is ErrExecTimedOut with the gRPC code that CRI clients know, codes.DeadlineExceeded.
type execTimeoutError struct {
	cmd   string
	after time.Duration
}

// ExecTimeout is the error of an ExecSync of cmd that was killed after the given time: errors.Is(err, ErrExecTimedOut)
// holds and its gRPC code is DeadlineExceeded.
func ExecTimeout(cmd []string, after time.Duration) error {
	return &execTimeoutError{cmd: strings.Join(cmd, " "), after: after}
}

func (e *execTimeoutError) Error() string {
	return fmt.Sprintf("%v: %q was killed after %s", ErrExecTimedOut, e.cmd, e.after)
}

func (e *execTimeoutError) Unwrap() error { return ErrExecTimedOut }

func (e *execTimeoutError) GRPCStatus() *status.Status {
	return status.New(codes.DeadlineExceeded, e.Error())
}

// IsExecTimeout reports whether an ExecSync failed because its command ran longer than allowed, whichever Runtime
// answered.
func IsExecTimeout(err error) bool {
	return errors.Is(err, ErrExecTimedOut) ||
		(err != nil && !errors.Is(err, context.DeadlineExceeded) && status.Code(err) == codes.DeadlineExceeded)
}

// IsNotFound reports whether err says that a sandbox, container or image does not exist (gRPC NotFound, wrapped or not).
func IsNotFound(err error) bool { return status.Code(err) == codes.NotFound }
