package controlplane

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	utilyaml "k8s.io/apimachinery/pkg/util/yaml"
	"k8s.io/client-go/discovery/cached/memory"
	"k8s.io/client-go/dynamic"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/restmapper"
	"k8s.io/client-go/tools/clientcmd"
	"sigs.k8s.io/yaml"

	"github.com/reevehq/reeve/internal/testenv"
)

// patience bounds every wait of these tests; a loaded two-core host is slow.
const patience = 90 * time.Second

// cluster is a running control plane without scheduler and controllers: nothing changes but by the test.
type cluster struct {
	dir        string
	kubeconfig string
	config     *rest.Config
	client     kubernetes.Interface
	dynamic    dynamic.Interface
	mapper     meta.ResettableRESTMapper
}

// start runs a control plane on a free loopback port over dir until the test ends or stop is called.
func start(t testing.TB, dir string, change func(*Config)) (c *cluster, stop func()) {
	t.Helper()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	ready := make(chan struct{})
	config := Config{
		DataDir: dir, Listener: listener, AdvertiseIP: netip.MustParseAddr("127.0.0.1"),
		Logger:           slog.New(slog.NewTextHandler(testLog{t}, &slog.HandlerOptions{Level: slog.LevelWarn})),
		DisableScheduler: true, DisableControllers: true, OnReady: func() { close(ready) },
	}
	if change != nil {
		change(&config)
	}
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- Run(ctx, config) }()
	var once sync.Once
	stop = func() {
		once.Do(func() {
			cancel()
			select {
			case err := <-ended:
				if err != nil {
					t.Errorf("control plane ended with: %v", err)
				}
			case <-time.After(patience):
				t.Error("control plane did not end")
			}
		})
	}
	t.Cleanup(stop)
	select {
	case <-ready:
	case err := <-ended:
		ended <- nil
		t.Fatalf("control plane did not start: %v", err)
	case <-time.After(patience):
		t.Fatal("control plane is not ready")
	}

	c = &cluster{dir: dir, kubeconfig: filepath.Join(dir, "admin.kubeconfig")}
	if c.config, err = clientcmd.BuildConfigFromFlags("", c.kubeconfig); err != nil {
		t.Fatal(err)
	}
	c.config.QPS = -1
	c.client = kubernetes.NewForConfigOrDie(c.config)
	c.dynamic = dynamic.NewForConfigOrDie(c.config)
	c.mapper = restmapper.NewDeferredDiscoveryRESTMapper(memory.NewMemCacheClient(c.client.Discovery()))
	return c, stop
}

// testLog shows the server's warnings with a failed test.
type testLog struct{ t testing.TB }

func (l testLog) Write(p []byte) (int, error) {
	defer func() { recover() }() // a line that comes after the test has ended has nowhere to go
	l.t.Log(strings.TrimSpace(string(p)))
	return len(p), nil
}

// tempRoot is where the tests' clusters live: in memory where that is possible, so that etcd's syncs do not queue
// behind a compiler's writes.
func tempRoot() string {
	if info, err := os.Stat("/dev/shm"); err == nil && info.IsDir() {
		return "/dev/shm"
	}
	return ""
}

// shortDir is a folder whose socket path fits in a unix address.
func shortDir(t testing.TB) string {
	t.Helper()
	dir, err := os.MkdirTemp(tempRoot(), "cp")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	return dir
}

func within(t testing.TB) context.Context {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	t.Cleanup(cancel)
	return ctx
}

// namespace makes a namespace with the service account that pods need.
func (c *cluster) namespace(t testing.TB, name string) string {
	t.Helper()
	ctx := within(t)
	if _, err := c.client.CoreV1().Namespaces().Create(ctx, &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: name}}, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	eventually(t, "create the default service account", func(ctx context.Context) error {
		_, err := c.client.CoreV1().ServiceAccounts(name).Create(ctx, &corev1.ServiceAccount{ObjectMeta: metav1.ObjectMeta{Name: "default"}}, metav1.CreateOptions{})
		if apierrors.IsAlreadyExists(err) {
			return nil
		}
		return err
	})
	return name
}

// eventually repeats until it succeeds: admission reads through informers, which trail what was just written.
func eventually(t testing.TB, what string, try func(context.Context) error) {
	t.Helper()
	ctx := within(t)
	for {
		err := try(ctx)
		if err == nil {
			return
		}
		select {
		case <-ctx.Done():
			t.Fatalf("%s: %v", what, err)
		case <-time.After(20 * time.Millisecond):
		}
	}
}

// resource finds the client of an object's kind.
func (c *cluster) resource(t testing.TB, obj *unstructured.Unstructured) dynamic.ResourceInterface {
	t.Helper()
	gvk := obj.GroupVersionKind()
	mapping, err := c.mapper.RESTMapping(gvk.GroupKind(), gvk.Version)
	if err != nil {
		t.Fatalf("find resource of %s: %v", gvk, err)
	}
	if mapping.Scope.Name() == meta.RESTScopeNameNamespace {
		return c.dynamic.Resource(mapping.Resource).Namespace(obj.GetNamespace())
	}
	return c.dynamic.Resource(mapping.Resource)
}

// parse reads the objects of a YAML stream.
func parse(t testing.TB, text []byte) []*unstructured.Unstructured {
	t.Helper()
	var out []*unstructured.Unstructured
	reader := utilyaml.NewYAMLReader(bufio.NewReader(bytes.NewReader(text)))
	for {
		doc, err := reader.Read()
		if errors.Is(err, io.EOF) {
			return out
		}
		if err != nil {
			t.Fatal(err)
		}
		obj := &unstructured.Unstructured{}
		if err := yaml.Unmarshal(doc, &obj.Object); err != nil {
			t.Fatalf("parse %s: %v", doc, err)
		}
		if len(obj.Object) > 0 {
			out = append(out, obj)
		}
	}
}

// kubectl runs the real kubectl, or skips where there is none.
func (c *cluster) kubectl(t testing.TB, stdin string, args ...string) string {
	t.Helper()
	out, err := c.tryKubectl(within(t), t, stdin, args...)
	if err != nil {
		t.Fatalf("kubectl %s: %v\n%s", strings.Join(args, " "), err, out)
	}
	return out
}

// shared is one cluster for the tests that only add objects of their own.
var shared struct {
	once    sync.Once
	cluster *cluster
	stop    func()
	dir     string
}

func sharedCluster(t testing.TB) *cluster {
	t.Helper()
	shared.once.Do(func() {
		dir, err := os.MkdirTemp(tempRoot(), "cp")
		if err != nil {
			t.Fatal(err)
		}
		shared.dir = dir
		shared.cluster, shared.stop = start(outlives{t}, dir, nil)
	})
	if shared.cluster == nil {
		t.Fatal("the shared control plane did not start: see the first failure")
	}
	return shared.cluster
}

// outlives keeps the shared cluster beyond the test that happened to start it.
type outlives struct{ testing.TB }

func (outlives) Cleanup(func()) {}

func TestMain(m *testing.M) {
	code := m.Run()
	if shared.stop != nil {
		shared.stop()
	}
	os.RemoveAll(shared.dir)
	os.Exit(code)
}

// kubectlFails runs kubectl where it must fail, and returns what it said.
func (c *cluster) kubectlFails(t testing.TB, stdin string, args ...string) string {
	t.Helper()
	out, err := c.tryKubectl(within(t), t, stdin, args...)
	if err == nil {
		t.Fatalf("kubectl %s succeeded and should not have:\n%s", strings.Join(args, " "), out)
	}
	return out
}

func (c *cluster) tryKubectl(ctx context.Context, t testing.TB, stdin string, args ...string) (string, error) {
	t.Helper()
	path := testenv.NeedBinary(t, "kubectl")
	cmd := exec.CommandContext(ctx, path, append([]string{"--kubeconfig", c.kubeconfig, "--cache-dir", filepath.Join(c.dir, "kubectl-cache")}, args...)...)
	cmd.Stdin = strings.NewReader(stdin)
	out, err := cmd.CombinedOutput()
	return string(out), err
}

// eventuallyKubectl repeats a command whose kind or document the server may publish a moment later.
func eventuallyKubectl(t testing.TB, c *cluster, stdin string, args ...string) {
	t.Helper()
	eventually(t, "kubectl "+strings.Join(args, " "), func(ctx context.Context) error {
		out, err := c.tryKubectl(ctx, t, stdin, args...)
		if err != nil {
			return fmt.Errorf("%w: %s", err, out)
		}
		return nil
	})
}

func explains(t testing.TB, c *cluster, what, want string) func(context.Context) error {
	return func(ctx context.Context) error {
		out, err := c.tryKubectl(ctx, t, "", "explain", what)
		if err != nil || !strings.Contains(out, want) {
			return fmt.Errorf("%v: %s", err, out)
		}
		return nil
	}
}
