package volumes

import (
	"context"
	"errors"
	"fmt"
	"os"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	authv1 "k8s.io/api/authentication/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"github.com/reevehq/reeve/internal/testenv"
	"github.com/reevehq/reeve/volumes/objects"
)

// fakeObjects serves ConfigMaps and Secrets from memory, and tells owners of changes as the cache does. It refuses what
// nobody retained.
type fakeObjects struct {
	mu      sync.Mutex
	cms     map[string]*corev1.ConfigMap
	secrets map[string]*corev1.Secret
	owners  map[types.UID]func()
	refs    map[types.UID][]objects.Ref
}

func newFakeObjects() *fakeObjects {
	return &fakeObjects{cms: map[string]*corev1.ConfigMap{}, secrets: map[string]*corev1.Secret{}, owners: map[types.UID]func(){}, refs: map[types.UID][]objects.Ref{}}
}

func (f *fakeObjects) Retain(owner types.UID, refs []objects.Ref, changed func()) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.refs[owner] = refs
	f.owners[owner] = changed
	if len(refs) == 0 {
		delete(f.owners, owner)
		delete(f.refs, owner)
	}
}

func (f *fakeObjects) retained(r objects.Ref) bool {
	for _, refs := range f.refs {
		for _, o := range refs {
			if o == r {
				return true
			}
		}
	}
	return false
}

func (f *fakeObjects) ConfigMap(_ context.Context, ns, name string) (*corev1.ConfigMap, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if !f.retained(objects.Ref{Kind: objects.ConfigMap, Namespace: ns, Name: name}) {
		return nil, fmt.Errorf("configmap %s was not retained", name)
	}
	if o := f.cms[ns+"/"+name]; o != nil {
		return o, nil
	}
	return nil, apierrors.NewNotFound(corev1.Resource("configmap"), name)
}

func (f *fakeObjects) Secret(_ context.Context, ns, name string) (*corev1.Secret, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if !f.retained(objects.Ref{Kind: objects.Secret, Namespace: ns, Name: name}) {
		return nil, fmt.Errorf("secret %s was not retained", name)
	}
	if o := f.secrets[ns+"/"+name]; o != nil {
		return o, nil
	}
	return nil, apierrors.NewNotFound(corev1.Resource("secret"), name)
}

func (f *fakeObjects) setConfigMap(name string, data map[string]string) {
	f.mu.Lock()
	f.cms["ns/"+name] = &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Name: name, Namespace: "ns"}, Data: data}
	var tell []func()
	for _, fn := range f.owners {
		tell = append(tell, fn)
	}
	f.mu.Unlock()
	for _, fn := range tell {
		fn()
	}
}

type fakeTokens struct {
	n    atomic.Int64
	life time.Duration
	fail atomic.Bool
}

func (f *fakeTokens) CreateToken(_ context.Context, ns, sa string, tr *authv1.TokenRequest) (*authv1.TokenRequest, error) {
	if f.fail.Load() {
		return nil, errors.New("the API server is away")
	}
	if tr.Spec.BoundObjectRef == nil || tr.Spec.BoundObjectRef.UID == "" {
		return nil, errors.New("the token is not bound to a pod")
	}
	tr.Status = authv1.TokenRequestStatus{Token: fmt.Sprintf("%s/%s#%d", ns, sa, f.n.Add(1)), ExpirationTimestamp: metav1.NewTime(time.Now().Add(f.life))}
	return tr, nil
}

func newTestManager(t *testing.T, change func(*Config)) *Manager {
	t.Helper()
	cfg := Config{RootDir: t.TempDir(), Objects: newFakeObjects(), Tokens: &fakeTokens{life: time.Hour}, Logger: testenv.Logger(t)}
	if change != nil {
		change(&cfg)
	}
	m, err := NewManager(cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		m.Close()
		mounts, _ := m.m.Below(cfg.RootDir)
		for i := len(mounts) - 1; i >= 0; i-- {
			_ = m.m.Unmount(mounts[i], true)
		}
	})
	return m
}

func allKinds() *corev1.Pod {
	mode := int32(0o400)
	opt := true
	seconds := int64(600)
	limit := resource.MustParse("1Mi")
	p := &corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{Namespace: "ns", Name: "p", UID: "uid-1", Labels: map[string]string{"app": "x"}},
		Spec: corev1.PodSpec{
			ServiceAccountName: "robot",
			Containers:         []corev1.Container{{Name: "c", VolumeMounts: mounts("tmp", "mem", "cm", "secret", "down", "proj", "opt")}},
			Volumes: []corev1.Volume{
				{Name: "tmp", VolumeSource: corev1.VolumeSource{EmptyDir: &corev1.EmptyDirVolumeSource{}}},
				{Name: "mem", VolumeSource: corev1.VolumeSource{EmptyDir: &corev1.EmptyDirVolumeSource{Medium: corev1.StorageMediumMemory, SizeLimit: &limit}}},
				{Name: "cm", VolumeSource: corev1.VolumeSource{ConfigMap: &corev1.ConfigMapVolumeSource{LocalObjectReference: corev1.LocalObjectReference{Name: "cm"},
					Items: []corev1.KeyToPath{{Key: "k", Path: "d/k", Mode: &mode}}}}},
				{Name: "secret", VolumeSource: corev1.VolumeSource{Secret: &corev1.SecretVolumeSource{SecretName: "s", DefaultMode: &mode}}},
				{Name: "down", VolumeSource: corev1.VolumeSource{DownwardAPI: &corev1.DownwardAPIVolumeSource{Items: []corev1.DownwardAPIVolumeFile{
					{Path: "labels", FieldRef: &corev1.ObjectFieldSelector{FieldPath: "metadata.labels"}}}}}},
				{Name: "proj", VolumeSource: corev1.VolumeSource{Projected: &corev1.ProjectedVolumeSource{Sources: []corev1.VolumeProjection{
					{ServiceAccountToken: &corev1.ServiceAccountTokenProjection{Path: "token", ExpirationSeconds: &seconds}},
					{ConfigMap: &corev1.ConfigMapProjection{LocalObjectReference: corev1.LocalObjectReference{Name: "cm"}}},
					{DownwardAPI: &corev1.DownwardAPIProjection{Items: []corev1.DownwardAPIVolumeFile{{Path: "namespace", FieldRef: &corev1.ObjectFieldSelector{FieldPath: "metadata.namespace"}}}}},
				}}}},
				{Name: "opt", VolumeSource: corev1.VolumeSource{ConfigMap: &corev1.ConfigMapVolumeSource{LocalObjectReference: corev1.LocalObjectReference{Name: "absent"}, Optional: &opt}}},
			},
		},
	}
	return p
}

func objectsForAll() *fakeObjects {
	o := newFakeObjects()
	o.setConfigMap("cm", map[string]string{"k": "v"})
	o.secrets["ns/s"] = &corev1.Secret{Data: map[string][]byte{"pw": []byte("hush")}}
	return o
}

func waitFor(t *testing.T, what string, cond func() bool) {
	t.Helper()
	deadline := time.Now().Add(10 * time.Second)
	for !cond() {
		if time.Now().After(deadline) {
			t.Fatalf("timed out waiting for %s", what)
		}
		time.Sleep(2 * time.Millisecond)
	}
}

func reads(path, want string) func() bool {
	return func() bool {
		data, err := os.ReadFile(path)
		return err == nil && string(data) == want
	}
}
