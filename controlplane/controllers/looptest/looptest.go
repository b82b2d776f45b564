package looptest

import (
	"context"
	"errors"
	"io"
	"log/slog"
	"strconv"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/uuid"
	"k8s.io/client-go/informers"
	"k8s.io/client-go/kubernetes/fake"
	clienttesting "k8s.io/client-go/testing"
	"k8s.io/client-go/tools/record"
	"k8s.io/klog/v2"

	"github.com/reevehq/reeve/controlplane/controllers/loop"
)

func init() { // client-go's chatter
	klog.LogToStderr(false)
	klog.SetOutput(io.Discard)
}

// Cluster is an in-memory API with what controllers need around it.
type Cluster struct {
	*fake.Clientset
	Env    loop.Env
	Events *record.FakeRecorder
	t      testing.TB
}

// New makes a cluster with the objects in it. Objects that are created get UIDs, times and generated names, and
// with every update a new resource version, as from a real API server. Updates of an
// older version are conflicts.
func New(t testing.TB, objs ...runtime.Object) *Cluster {
	t.Helper()
	client := fake.NewClientset(objs...)
	var version atomic.Int64
	client.PrependReactor("update", "*", func(a clienttesting.Action) (bool, runtime.Object, error) {
		if u, ok := a.(clienttesting.UpdateAction); ok {
			if m, err := meta.Accessor(u.GetObject()); err == nil {
				if have, err := client.Tracker().Get(a.GetResource(), m.GetNamespace(), m.GetName()); err == nil {
					if h, err := meta.Accessor(have); err == nil && m.GetResourceVersion() != "" && h.GetResourceVersion() != m.GetResourceVersion() {
						return true, nil, apierrors.NewConflict(a.GetResource().GroupResource(), m.GetName(), errors.New("the object has been modified"))
					}
				}
				m.SetResourceVersion(strconv.FormatInt(version.Add(1), 10))
			}
		}
		return false, nil, nil
	})
	client.PrependReactor("create", "*", func(a clienttesting.Action) (bool, runtime.Object, error) {
		c, ok := a.(clienttesting.CreateAction)
		if !ok || a.GetSubresource() != "" {
			return false, nil, nil
		}
		if m, err := meta.Accessor(c.GetObject()); err == nil {
			if m.GetName() == "" && m.GetGenerateName() != "" {
				m.SetName(m.GetGenerateName() + string(uuid.NewUUID())[:8])
			}
			m.SetResourceVersion(strconv.FormatInt(version.Add(1), 10))
			if m.GetUID() == "" {
				m.SetUID(types.UID(uuid.NewUUID()))
			}
			if ts := m.GetCreationTimestamp(); ts.IsZero() {
				m.SetCreationTimestamp(metav1.Now())
			}
		}
		return false, nil, nil
	})
	events := record.NewFakeRecorder(10000)
	inf := informers.NewSharedInformerFactory(client, 0)
	ctx, cancel := context.WithCancel(t.Context())
	t.Cleanup(func() { cancel(); inf.Shutdown() })
	return &Cluster{
		Clientset: client, Events: events, t: t,
		Env: loop.Env{
			Client: client, Informers: inf, Log: slog.New(slog.DiscardHandler),
			StartInformers: func() { inf.Start(ctx.Done()) },
			Recorder:       func(string) record.EventRecorder { return events },
		},
	}
}

// Run starts a controller and returns what stops it and waits for its end; the test's end does so too.
func (c *Cluster) Run(r interface{ Run(context.Context) error }, err error) (stop func()) {
	c.t.Helper()
	if err != nil {
		c.t.Fatal(err)
	}
	c.Env.StartInformers()
	ctx, cancel := context.WithCancel(c.t.Context())
	done := make(chan struct{})
	go func() {
		defer close(done)
		if err := r.Run(ctx); err != nil {
			c.t.Errorf("Run: %v", err)
		}
	}()
	var once sync.Once
	stop = func() { once.Do(func() { cancel(); <-done }) }
	c.t.Cleanup(stop)
	return stop
}

// Eventually waits until ok says nil; the last error is the test's failure.
func (c *Cluster) Eventually(what string, ok func() error) {
	c.t.Helper()
	deadline := time.Now().Add(20 * time.Second)
	for {
		err := ok()
		if err == nil {
			return
		}
		if time.Now().After(deadline) {
			c.t.Fatalf("%s: %v", what, err)
		}
		time.Sleep(2 * time.Millisecond) // the in-memory API has no other way to say that something happened
	}
}
