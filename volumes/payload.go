package volumes

import (
	"context"
	"fmt"
	"path"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"

	"github.com/reevehq/reeve/internal/downward"
)

// file is one file of a payload. uid -1 leaves root its owner.
type file struct {
	data []byte
	mode uint32
	uid  int
}

// payload is a volume's whole content: files by clean relative path.
type payload map[string]file

// defaultFileMode of every payload kind, core/v1.
const defaultFileMode int32 = 0o644

// setUpPayload is the way of configMap, secret, downwardAPI and projected volumes: gather the content, then swap it in.
func (m *Manager) setUpPayload(ctx context.Context, pod *corev1.Pod, s step, dir string) (Mounted, time.Time, error) {
	done := Mounted{HostPath: dir, ReadOnly: true, Relabel: true}
	content, refresh, err := m.gather(ctx, pod, s, dir)
	if err != nil {
		if hasContent(dir) {
			return done, refresh, err
		}
		return Mounted{}, time.Time{}, err
	}
	if _, err := makeDir(dir, emptyDirMode); err != nil {
		return Mounted{}, time.Time{}, err
	}
	if s.Kind != kindConfigMap {
		// Everything but a ConfigMap may be confidential, and stays off the disk.
		mounted, err := m.m.IsMountPoint(dir)
		if err != nil {
			return Mounted{}, time.Time{}, err
		}
		if !mounted {
			if err := mountTmpfs(m.m, dir, 0, true); err != nil {
				return Mounted{}, time.Time{}, err
			}
		}
	}
	if err := writePayload(dir, content, fsGroup(pod)); err != nil {
		return Mounted{}, time.Time{}, err
	}
	return done, refresh, nil
}

func (m *Manager) gather(ctx context.Context, pod *corev1.Pod, s step, dir string) (payload, time.Time, error) {
	var none time.Time
	switch s.Kind {
	case kindConfigMap:
		src := s.Vol.ConfigMap
		p, err := m.configMapPayload(ctx, pod.Namespace, src.Name, src.Items, modeOr(src.DefaultMode), isTrue(src.Optional))
		return p, none, err
	case kindSecret:
		src := s.Vol.Secret
		p, err := m.secretPayload(ctx, pod.Namespace, src.SecretName, src.Items, modeOr(src.DefaultMode), isTrue(src.Optional))
		return p, none, err
	case kindDownwardAPI:
		src := s.Vol.DownwardAPI
		p, err := m.downwardPayload(pod, src.Items, modeOr(src.DefaultMode))
		return p, none, err
	case kindProjected:
		return m.projectedPayload(ctx, pod, s.Vol.Projected, dir)
	}
	return nil, none, fmt.Errorf("gather content of volume %q: kind %d has none", s.Name, s.Kind)
}

func (m *Manager) configMapPayload(ctx context.Context, namespace, name string, items []corev1.KeyToPath, mode int32, optional bool) (payload, error) {
	if m.cfg.Objects == nil {
		return nil, fmt.Errorf("configmap %q: this node runs without an API server", name)
	}
	cm, err := m.cfg.Objects.ConfigMap(ctx, namespace, name)
	if err != nil {
		if optional && apierrors.IsNotFound(err) {
			return payload{}, nil
		}
		return nil, err
	}
	data := make(map[string][]byte, len(cm.Data)+len(cm.BinaryData))
	for k, v := range cm.Data {
		data[k] = []byte(v)
	}
	for k, v := range cm.BinaryData {
		data[k] = v
	}
	return projectKeys("configmap", data, items, mode, optional)
}

func (m *Manager) secretPayload(ctx context.Context, namespace, name string, items []corev1.KeyToPath, mode int32, optional bool) (payload, error) {
	if m.cfg.Objects == nil {
		return nil, fmt.Errorf("secret %q: this node runs without an API server", name)
	}
	s, err := m.cfg.Objects.Secret(ctx, namespace, name)
	if err != nil {
		if optional && apierrors.IsNotFound(err) {
			return payload{}, nil
		}
		return nil, err
	}
	return projectKeys("secret", s.Data, items, mode, optional)
}

// projectKeys lays an object's keys out as files: every key under its own name, or the items under their paths. A key
// that an item names and the object lacks is an error unless optional. Pure.
func projectKeys(what string, data map[string][]byte, items []corev1.KeyToPath, mode int32, optional bool) (payload, error) {
	p := make(payload, len(data))
	if len(items) == 0 {
		for k, v := range data {
			p[k] = file{data: v, mode: uint32(mode), uid: -1}
		}
		return p, nil
	}
	for _, it := range items {
		v, ok := data[it.Key]
		if !ok {
			if optional {
				continue
			}
			return nil, fmt.Errorf("%s references non-existent %s key: %s", what, what, it.Key)
		}
		f := file{data: v, mode: uint32(mode), uid: -1}
		if it.Mode != nil {
			f.mode = uint32(*it.Mode)
		}
		if err := p.add(it.Path, f); err != nil {
			return nil, err
		}
	}
	return p, nil
}

func (m *Manager) downwardPayload(pod *corev1.Pod, items []corev1.DownwardAPIVolumeFile, mode int32) (payload, error) {
	var alloc corev1.ResourceList
	if m.cfg.NodeAllocatable != nil {
		alloc = m.cfg.NodeAllocatable()
	}
	p := make(payload, len(items))
	for _, it := range items {
		f := file{mode: uint32(mode), uid: -1}
		if it.Mode != nil {
			f.mode = uint32(*it.Mode)
		}
		switch {
		case it.FieldRef != nil:
			v, err := downward.Field(pod, it.FieldRef.FieldPath, downward.Addresses{})
			if err != nil {
				return nil, err
			}
			f.data = []byte(v)
		case it.ResourceFieldRef != nil:
			c, err := downward.Container(pod, it.ResourceFieldRef.ContainerName)
			if err != nil {
				return nil, err
			}
			v, err := downward.Resource(c, it.ResourceFieldRef.Resource, it.ResourceFieldRef.Divisor, alloc)
			if err != nil {
				return nil, err
			}
			f.data = []byte(v)
		default:
			return nil, fmt.Errorf("downwardAPI item %q has neither fieldRef nor resourceFieldRef", it.Path)
		}
		if err := p.add(it.Path, f); err != nil {
			return nil, err
		}
	}
	return p, nil
}

// add puts a file at a relative path that stays inside the volume and does not meddle with the names of the swap.
func (p payload) add(name string, f file) error {
	clean := path.Clean(name)
	switch {
	case name == "" || clean == "." || path.IsAbs(name):
		return fmt.Errorf("path %q: must be a relative path to a file", name)
	case clean == ".." || strings.HasPrefix(clean, "../"):
		return fmt.Errorf("path %q: leads out of the volume", name)
	case strings.HasPrefix(clean, ".."):
		return fmt.Errorf(`path %q: must not start with ".."`, name)
	}
	p[clean] = f
	return nil
}

func modeOr(m *int32) int32 {
	if m == nil {
		return defaultFileMode
	}
	return *m
}

func isTrue(b *bool) bool { return b != nil && *b }
