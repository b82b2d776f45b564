package owner

import (
	"sync"
	"time"
)

// expireAfter is when expectations stop holding a controller back: events were lost, so look again (upstream's 5 min).
const expireAfter = 5 * time.Minute

// Expectations remember, per key, creations and deletions that the watch has not shown yet. The zero value is ready.
type Expectations struct {
	mu sync.Mutex
	m  map[string]*expectation
}

type expectation struct {
	adds int
	dels map[string]bool
	at   time.Time
}

// Expect records what is about to be sent. dels are names of the things to be deleted.
func (e *Expectations) Expect(key string, adds int, dels ...string) {
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.m == nil {
		e.m = map[string]*expectation{}
	}
	x := &expectation{adds: adds, dels: map[string]bool{}, at: time.Now()}
	for _, d := range dels {
		x.dels[d] = true
	}
	e.m[key] = x
}

// Created counts n creations as seen, or as never to come.
func (e *Expectations) Created(key string, n int) {
	e.mu.Lock()
	defer e.mu.Unlock()
	if x := e.m[key]; x != nil {
		x.adds -= n
	}
}

// Deleted counts a deletion as seen, or as never to come.
func (e *Expectations) Deleted(key, name string) {
	e.mu.Lock()
	defer e.mu.Unlock()
	if x := e.m[key]; x != nil {
		delete(x.dels, name)
	}
}

// Met reports whether nothing is outstanding, or waiting took too long.
func (e *Expectations) Met(key string) bool {
	e.mu.Lock()
	defer e.mu.Unlock()
	x := e.m[key]
	return x == nil || (x.adds <= 0 && len(x.dels) == 0) || time.Since(x.at) > expireAfter
}

// Forget drops a key.
func (e *Expectations) Forget(key string) {
	e.mu.Lock()
	defer e.mu.Unlock()
	delete(e.m, key)
}

// SlowStart calls f n times in batches that double while all goes well (1, 2, 4, …), each batch at once, so that a quota or
// an admission refusal costs one request instead of n. It returns how many succeeded, and the first error.
func SlowStart(n int, f func(i int) error) (int, error) {
	done := 0
	for size := 1; done < n; size *= 2 {
		size = min(size, n-done)
		errs := make([]error, size)
		var wg sync.WaitGroup
		for i := range size {
			wg.Go(func() { errs[i] = f(done + i) })
		}
		wg.Wait()
		ok := 0
		var first error
		for _, err := range errs {
			if err == nil {
				ok++
			} else if first == nil {
				first = err
			}
		}
		done += ok
		if first != nil {
			return done, first
		}
	}
	return done, nil
}
