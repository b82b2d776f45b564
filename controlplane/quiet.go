package controlplane

import (
	"context"
	"log/slog"
)

// quiet lowers a library's Info to Debug: klog tells of every informer and every controller that starts.
type quiet struct {
	slog.Handler
}

func (q *quiet) lower(l slog.Level) slog.Level {
	if l < slog.LevelWarn && l > slog.LevelDebug {
		return slog.LevelDebug
	}
	return l
}

func (q *quiet) Enabled(ctx context.Context, l slog.Level) bool {
	return q.Handler.Enabled(ctx, q.lower(l))
}

func (q *quiet) Handle(ctx context.Context, r slog.Record) error {
	r.Level = q.lower(r.Level)
	return q.Handler.Handle(ctx, r)
}

func (q *quiet) WithAttrs(attrs []slog.Attr) slog.Handler { return &quiet{q.Handler.WithAttrs(attrs)} }
func (q *quiet) WithGroup(name string) slog.Handler       { return &quiet{q.Handler.WithGroup(name)} }
