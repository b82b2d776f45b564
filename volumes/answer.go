package volumes

import (
	"context"
	"errors"
	"fmt"
	"time"

	"k8s.io/apimachinery/pkg/types"
)

// answerTimeout bounds looks at files that are not ours: a hostPath or a local volume may lie on a file system whose
// server is gone, and the kernel then keeps whoever asks waiting for as long as that lasts.
const answerTimeout = 10 * time.Second

var silent = errors.New("its file system does not answer; is the server behind it gone?")

// asked is a look that has not come back.
type asked struct {
	uid    types.UID
	volume string
}

// answered runs f, which may hang in the kernel, and gives it up when ctx ends or after answerTimeout: the goroutine stays
// behind until the kernel lets go of it, and no second one is started for the same volume meanwhile. f must only look, or
// do what may as well happen later.
func (m *Manager) answered(ctx context.Context, uid types.UID, volume string, f func() (Mounted, error)) (Mounted, error) {
	key := asked{uid, volume}
	m.mu.Lock()
	stuck := m.asking[key]
	if !stuck {
		m.asking[key] = true
	}
	m.mu.Unlock()
	if stuck {
		return Mounted{}, silent
	}
	type answer struct {
		mt  Mounted
		err error
	}
	ch := make(chan answer, 1)
	go func() { // may outlive the manager: nobody can end it
		mt, err := f()
		m.mu.Lock()
		delete(m.asking, key)
		m.mu.Unlock()
		ch <- answer{mt, err}
	}()
	t := time.NewTimer(answerTimeout)
	defer t.Stop()
	select {
	case a := <-ch:
		return a.mt, a.err
	case <-t.C:
		return Mounted{}, fmt.Errorf("waited %s: %w", answerTimeout, silent)
	case <-ctx.Done():
		return Mounted{}, errors.Join(ctx.Err(), silent)
	}
}

// answers runs a call that may hang in the kernel. After answerTimeout it is given up: ok is false, and late, which may be
// nil, gets the result when it comes after all.
func answers[T any](f func() T, late func(T)) (out T, ok bool) {
	ch := make(chan T, 1)
	go func() { ch <- f() }() // may outlive everybody: nobody can end it
	t := time.NewTimer(answerTimeout)
	defer t.Stop()
	select {
	case out = <-ch:
		return out, true
	case <-t.C:
	}
	if late != nil {
		go func() { late(<-ch) }()
	}
	return out, false
}
