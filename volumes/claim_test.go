package volumes

import (
	"context"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/reevehq/reeve/internal/testenv"
)

type fakeClaims struct {
	pvc map[string]*corev1.PersistentVolumeClaim
	pv  map[string]*corev1.PersistentVolume
}

func (f fakeClaims) PersistentVolumeClaim(_ context.Context, _, name string) (*corev1.PersistentVolumeClaim, error) {
	if c := f.pvc[name]; c != nil {
		return c, nil
	}
	return nil, apierrors.NewNotFound(corev1.Resource("persistentvolumeclaims"), name)
}

func (f fakeClaims) PersistentVolume(_ context.Context, name string) (*corev1.PersistentVolume, error) {
	if v := f.pv[name]; v != nil {
		return v, nil
	}
	return nil, apierrors.NewNotFound(corev1.Resource("persistentvolumes"), name)
}

func claim(name, volume string, phase corev1.PersistentVolumeClaimPhase) *corev1.PersistentVolumeClaim {
	return &corev1.PersistentVolumeClaim{ObjectMeta: metav1.ObjectMeta{Name: name, UID: "uid-" + "c"}, Spec: corev1.PersistentVolumeClaimSpec{VolumeName: volume},
		Status: corev1.PersistentVolumeClaimStatus{Phase: phase}}
}

func TestClaims(t *testing.T) {
	dir := t.TempDir()
	ref := &corev1.ObjectReference{UID: "uid-c"}
	local := corev1.PersistentVolumeSource{Local: &corev1.LocalVolumeSource{Path: dir}}
	affine := func(host string) *corev1.VolumeNodeAffinity {
		return &corev1.VolumeNodeAffinity{Required: &corev1.NodeSelector{NodeSelectorTerms: []corev1.NodeSelectorTerm{{MatchExpressions: []corev1.NodeSelectorRequirement{
			{Key: corev1.LabelHostname, Operator: corev1.NodeSelectorOpIn, Values: []string{host}}}}}}}
	}
	pv := func(spec corev1.PersistentVolumeSpec) *corev1.PersistentVolume {
		return &corev1.PersistentVolume{ObjectMeta: metav1.ObjectMeta{Name: "v"}, Spec: spec}
	}
	m := newTestManager(t, func(c *Config) {
		c.NodeLabels = func() map[string]string { return map[string]string{corev1.LabelHostname: "here"} }
	})
	for _, tc := range []struct {
		name string
		pvc  *corev1.PersistentVolumeClaim
		pv   *corev1.PersistentVolume
		err  string
	}{
		{"local, here", claim("c", "v", corev1.ClaimBound), pv(corev1.PersistentVolumeSpec{ClaimRef: ref, PersistentVolumeSource: local, NodeAffinity: affine("here")}), ""},
		{"local, elsewhere", claim("c", "v", corev1.ClaimBound), pv(corev1.PersistentVolumeSpec{ClaimRef: ref, PersistentVolumeSource: local, NodeAffinity: affine("there")}), "nodeAffinity"},
		{"hostPath", claim("c", "v", corev1.ClaimBound), pv(corev1.PersistentVolumeSpec{ClaimRef: ref, PersistentVolumeSource: corev1.PersistentVolumeSource{HostPath: &corev1.HostPathVolumeSource{Path: dir}}}), ""},
		{"pending", claim("c", "", corev1.ClaimPending), nil, "not bound"},
		{"bound to another", claim("c", "v", corev1.ClaimBound), pv(corev1.PersistentVolumeSpec{ClaimRef: &corev1.ObjectReference{UID: "x"}, PersistentVolumeSource: local}), "not bound to claim"},
		{"no such claim", nil, nil, "not found"},
		{"a kind that is not served", claim("c", "v", corev1.ClaimBound), pv(corev1.PersistentVolumeSpec{ClaimRef: ref, PersistentVolumeSource: corev1.PersistentVolumeSource{NFS: &corev1.NFSVolumeSource{}}}), "does not support"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			f := fakeClaims{map[string]*corev1.PersistentVolumeClaim{}, map[string]*corev1.PersistentVolume{}}
			if tc.pvc != nil {
				f.pvc["c"] = tc.pvc
			}
			if tc.pv != nil {
				f.pv["v"] = tc.pv
			}
			m.cfg.Claims = f
			got, err := m.setUpClaim(t.Context(), &corev1.Pod{}, &corev1.Volume{VolumeSource: corev1.VolumeSource{PersistentVolumeClaim: &corev1.PersistentVolumeClaimVolumeSource{ClaimName: "c", ReadOnly: true}}})
			if tc.err != "" {
				if err == nil || !strings.Contains(err.Error(), tc.err) {
					t.Errorf("error %v, want one that says %q", err, tc.err)
				}
				return
			}
			if err != nil || got.HostPath != dir || !got.ReadOnly {
				t.Errorf("got %+v, %v", got, err)
			}
		})
	}
}

// fsGroup reaches all of a volume, never what its links point to, and is not walked again when the policy says so.
func TestGiveTree(t *testing.T) {
	testenv.NeedRoot(t)
	base := t.TempDir()
	vol, out := filepath.Join(base, "vol"), filepath.Join(base, "out")
	for _, d := range []string{filepath.Join(vol, "d"), out} {
		if err := os.MkdirAll(d, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	for _, f := range []string{filepath.Join(vol, "d/f"), filepath.Join(out, "secret")} {
		if err := os.WriteFile(f, nil, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	for link, to := range map[string]string{"abs": filepath.Join(out, "secret"), "rel": "../out/secret"} {
		if err := os.Symlink(to, filepath.Join(vol, link)); err != nil {
			t.Fatal(err)
		}
	}
	if err := giveTree(vol, 777, nil); err != nil {
		t.Fatal(err)
	}
	check := func(path string, mode os.FileMode, gid uint32) {
		t.Helper()
		fi, err := os.Stat(path)
		if err != nil {
			t.Fatal(err)
		}
		if fi.Mode().Perm() != mode || fi.Sys().(*syscall.Stat_t).Gid != gid {
			t.Errorf("%s: %v, group %d; want %o, %d", path, fi.Mode(), fi.Sys().(*syscall.Stat_t).Gid, mode, gid)
		}
	}
	check(vol, 0o775, 777)
	check(filepath.Join(vol, "d"), 0o775, 777)
	check(filepath.Join(vol, "d/f"), 0o660, 777)
	check(filepath.Join(out, "secret"), 0o600, 0)
	if err := os.Chown(filepath.Join(vol, "d/f"), -1, 5); err != nil {
		t.Fatal(err)
	}
	policy := corev1.FSGroupChangeOnRootMismatch
	if err := giveTree(vol, 777, &policy); err != nil {
		t.Fatal(err)
	}
	check(filepath.Join(vol, "d/f"), 0o660, 5)
}
