package controllers

import (
	"context"
	"errors"
	"net/netip"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"

	"go.uber.org/goleak"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/informers"
	"k8s.io/client-go/kubernetes/fake"
	"k8s.io/client-go/rest"

	"github.com/reevehq/reeve/controlplane/controllers/loop"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func TestBadConfigurationNamesTheField(t *testing.T) {
	err := Run(t.Context(), Config{ClusterCIDRs: []netip.Prefix{netip.MustParsePrefix("10.0.0.0/28"), netip.MustParsePrefix("10.1.0.0/16")}})
	for _, part := range []string{"give RESTConfig or Client", "10.0.0.0/28 is smaller than one node's /24", "10.1.0.0/16: a range of that IP family was given already"} {
		if err == nil || !strings.Contains(err.Error(), part) {
			t.Errorf("error %v does not say %q", err, part)
		}
	}
	err = Run(t.Context(), Config{RESTConfig: &rest.Config{Host: "127.0.0.1:1"}, Disable: []string{"no-such-controller"}})
	if err == nil || !strings.Contains(err.Error(), `"no-such-controller"`) || !strings.Contains(err.Error(), "deployment-controller") {
		t.Errorf("error %v does not name the unknown controller and the known ones", err)
	}
}

func TestNamesAreUnique(t *testing.T) {
	names := Names()
	slices.Sort(names)
	if len(slices.Compact(slices.Clone(names))) != len(names) {
		t.Errorf("a name is there twice: %v", names)
	}
}

type crasher struct{ runs *atomic.Int32 }

func (c crasher) Run(context.Context) error {
	if c.runs.Add(1)%2 == 0 {
		panic("boom")
	}
	return errors.New("broken")
}

// A controller that fails or panics comes back, later each time, and never takes the others down.
func TestKeepRestartsWithBackOff(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var runs atomic.Int32
		client := fake.NewClientset()
		cfg := &Config{Client: client, RESTConfig: &rest.Config{}}
		if err := cfg.complete(); err != nil {
			t.Fatal(err)
		}
		ctx, cancel := context.WithTimeout(t.Context(), 8*restartMin)
		defer cancel()
		env := loop.Env{Informers: informers.NewSharedInformerFactory(client, 0), StartInformers: func() {}}
		keep(ctx, cfg, env, spec{"crasher", func(*Config, loop.Env) (runner, error) { return crasher{&runs}, nil }})
		if n := runs.Load(); n != 4 { // at 0, 1, 3 and 7 seconds
			t.Errorf("ran %d times in %s, want 4", n, 8*restartMin)
		}
	})
}

func TestTransformDropsManagedFields(t *testing.T) {
	p := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{ManagedFields: []metav1.ManagedFieldsEntry{{Manager: "m"}}}}
	if _, err := StripManagedFields(p); err != nil || p.ManagedFields != nil {
		t.Errorf("%v, %v", p.ManagedFields, err)
	}
}
