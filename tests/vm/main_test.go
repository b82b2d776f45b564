package vm

import (
	"context"
	"os"
	"sync"
	"testing"
	"time"

	"github.com/reevehq/reeve/internal/testenv"
)

// shared is the machine of this package's tests: booted once, early, while the first test waits.
var shared struct {
	once sync.Once
	m    *Machine
	err  error
}

func TestMain(m *testing.M) {
	code := m.Run()
	if shared.m != nil {
		_ = shared.m.Close()
	}
	os.Exit(code)
}

func machine(t testing.TB) *Machine {
	t.Helper()
	if err := Missing(); err != nil {
		testenv.Skip(t, err.Error())
	}
	shared.once.Do(func() {
		start := time.Now()
		shared.m, shared.err = Start(context.Background(), Options{})
		t.Logf("Booted after %v", time.Since(start).Round(time.Second))
	})
	if shared.err != nil {
		t.Fatal(shared.err)
	}
	return shared.m
}

// sh runs a script in the machine that must not fail, and answers its output.
func sh(t testing.TB, m *Machine, script string) string {
	t.Helper()
	r, err := m.Sh(t.Context(), script)
	if err != nil || r.Code != 0 {
		t.Fatalf("%s\nexit code %d, %v:\n%s", script, r.Code, err, r.Output)
	}
	return r.Output
}
