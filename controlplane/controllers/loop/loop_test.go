package loop

import (
	"context"
	"errors"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func run(t *testing.T, l *Loop) (stop func()) {
	ctx, cancel := context.WithCancel(t.Context())
	var wg sync.WaitGroup
	wg.Go(func() {
		if err := l.Run(ctx); err != nil {
			t.Error(err)
		}
	})
	return func() { cancel(); wg.Wait() }
}

func TestFailuresAreRetriedLaterEachTime(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var at []time.Duration
		begin := time.Now()
		l := New("test", nil, 1, func(context.Context, string) error {
			at = append(at, time.Since(begin))
			switch len(at) {
			case 1:
				return errors.New("once")
			case 2:
				panic("twice")
			case 3:
				return ErrLater
			}
			return nil
		})
		stop := run(t, l)
		l.Add("k")
		time.Sleep(time.Second)
		stop()
		if len(at) != 4 || at[1] < retryMin || at[2]-at[1] < 2*retryMin || at[3]-at[2] < 4*retryMin {
			t.Errorf("tried at %v", at)
		}
	})
}

func TestOneKeyIsNeverReconciledTwiceAtOnce(t *testing.T) {
	var busy, most, total atomic.Int32
	l := New("test", nil, 8, func(context.Context, string) error {
		n := busy.Add(1)
		for {
			m := most.Load()
			if n <= m || most.CompareAndSwap(m, n) {
				break
			}
		}
		time.Sleep(100 * time.Microsecond)
		busy.Add(-1)
		total.Add(1)
		return nil
	})
	stop := run(t, l)
	for range 100 {
		l.Add("k")
		time.Sleep(20 * time.Microsecond)
	}
	stop()
	if most.Load() != 1 || total.Load() == 0 {
		t.Errorf("%d at once, %d in all", most.Load(), total.Load())
	}
}
