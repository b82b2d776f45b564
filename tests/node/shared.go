package node

import (
	"flag"
	"fmt"
	"os"
	"sync"
	"sync/atomic"
	"testing"
)

// Suite is a package of tests that share one node, started for the first test that asks for it and closed after the last.
// Its Run stands in for that of the *testing.M:
//
//	var suite = &node.Suite{Setup: func(n *node.Node) { n.Busybox() }}
//
//	func TestMain(m *testing.M) { suite.M = m; node.Main(suite) }
type Suite struct {
	M     *testing.M
	Flags []string    // of the server
	Setup func(*Node) // before the server starts; may be nil
	// Parallel is how many tests run at once (go test's own default is the number of processors: few, for tests that mostly
	// wait).
	Parallel int

	once sync.Once
	node *Node
	t    *outliving
}

// Run runs the tests, then closes the node.
func (s *Suite) Run() int {
	flag.Parse()
	if s.Parallel > 0 {
		if err := flag.Set("test.parallel", fmt.Sprint(s.Parallel)); err != nil {
			fmt.Fprintln(os.Stderr, "set test.parallel:", err)
			return 1
		}
	}
	code := s.M.Run()
	if s.node == nil {
		return code
	}
	s.t.failed = code != 0
	func() {
		defer func() { recover() }() // told already
		s.node.Close()
	}()
	if s.t.failed {
		return max(code, 1)
	}
	return 0
}

// Node is the shared node, with failures going to t. Tests must not stop it.
func (s *Suite) Node(t testing.TB) *Node {
	t.Helper()
	s.once.Do(func() {
		defer func() {
			if r := recover(); r != nil && !s.t.failed {
				panic(r)
			}
		}()
		s.t = &outliving{}
		sharing.Store(true)
		s.node = New(s.t, s.Flags...)
		if s.Setup != nil {
			s.Setup(s.node)
		}
		s.node.Start()
		s.t.started = true
	})
	if !s.t.started {
		t.Fatal("the shared node did not start")
	}
	n := *s.node
	n.T = t
	return &n
}

// sharing: a shared node runs in these namespaces.
var sharing atomic.Bool

// outliving is the testing.TB of a node that no single test owns. A fatal failure panics.
type outliving struct {
	testing.TB
	failed, started bool
}

func (o *outliving) Helper()        {}
func (o *outliving) Cleanup(func()) {}
func (o *outliving) Failed() bool   { return o.failed }

func (o *outliving) TempDir() string {
	dir, err := os.MkdirTemp("/run", "shared-")
	if err != nil {
		o.Fatal(err)
	}
	return dir
}

func (o *outliving) Log(args ...any)              { fmt.Fprintln(os.Stderr, args...) }
func (o *outliving) Logf(f string, args ...any)   { fmt.Fprintf(os.Stderr, f+"\n", args...) }
func (o *outliving) Errorf(f string, args ...any) { o.failed = true; o.Logf(f, args...) }
func (o *outliving) Error(args ...any)            { o.failed = true; o.Log(args...) }
func (o *outliving) Fatal(args ...any)            { o.Error(args...); panic("the shared node failed") }
func (o *outliving) Fatalf(f string, args ...any) {
	o.Errorf(f, args...)
	panic("the shared node failed")
}
