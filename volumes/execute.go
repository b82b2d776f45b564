package volumes

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"time"

	"golang.org/x/sys/unix"
	corev1 "k8s.io/api/core/v1"

	"github.com/reevehq/reeve/internal/logkey"
)

const (
	// unmountTries and unmountWait: a mount is often busy for a moment after its last process ended.
	unmountTries = 3
	unmountWait  = 20 * time.Millisecond
)

// setUp carries one step out. On an error the Mounted may still be filled in: the volume is mounted, its content old.
func (m *Manager) setUp(ctx context.Context, pod *corev1.Pod, s step) (Mounted, time.Time, error) {
	dir := ""
	if s.Dir != "" {
		dir = filepath.Join(m.volumesDir(pod.UID), s.Dir)
	}
	switch s.Kind {
	case kindEmptyDir:
		mt, err := m.setUpEmptyDir(pod, s.Vol, dir)
		return mt, time.Time{}, err
	case kindHostPath:
		mt, err := m.answered(ctx, pod.UID, s.Name, func() (Mounted, error) { return setUpHostPath(s.Vol.HostPath) })
		return mt, time.Time{}, err
	case kindConfigMap, kindSecret, kindDownwardAPI, kindProjected:
		return m.setUpPayload(ctx, pod, s, dir)
	case kindClaim:
		mt, err := m.answered(ctx, pod.UID, s.Name, func() (Mounted, error) { return m.setUpClaim(ctx, pod, s.Vol) })
		return mt, time.Time{}, err
	case kindImage:
		return Mounted{Image: s.Vol.Image, ReadOnly: true}, time.Time{}, nil
	}
	return Mounted{}, time.Time{}, fmt.Errorf("set up volume %q: unknown kind %d", s.Name, s.Kind)
}

// tearDownPass unmounts and removes all that is left of the pod's volumes. Its error is the reason to try again.
func (m *Manager) tearDownPass(ctx context.Context, pod *corev1.Pod, orphan bool) passResult {
	err := m.tearDownPod(ctx, pod)
	if err == nil && orphan {
		err = removeTree(m.m, m.PodDir(pod.UID))
	}
	if err != nil {
		return passResult{errs: map[string]error{"": err}}
	}
	m.tokens.forget(pod.UID)
	return passResult{}
}

func (m *Manager) tearDownPod(ctx context.Context, pod *corev1.Pod) error {
	var roots []string
	// Subpath mounts sit on the volumes: they go first.
	for _, d := range []string{m.subpathsDir(pod.UID), m.volumesDir(pod.UID)} {
		if _, err := os.Lstat(d); err == nil {
			roots = append(roots, d)
		} else if !errors.Is(err, os.ErrNotExist) {
			return fmt.Errorf("tear down volumes: %w", err)
		}
	}
	if len(roots) == 0 {
		return nil
	}
	mounts, err := m.m.Below(m.PodDir(pod.UID))
	if err != nil {
		return fmt.Errorf("tear down volumes: %w", err)
	}
	td := planTearDown(roots, mounts)
	var errs []error
	for _, mp := range td.Unmount {
		if err := m.unmount(ctx, pod, mp); err != nil {
			errs = append(errs, err)
		}
	}
	if err := errors.Join(errs...); err != nil {
		return fmt.Errorf("tear down volumes: %w", err)
	}
	for _, d := range td.Remove {
		if err := removeTree(m.m, d); err != nil {
			errs = append(errs, err)
		}
	}
	return errors.Join(errs...)
}

// unmount tries for a moment, then says who holds the mount and detaches it: neither a holder that never lets go nor a
// file system that does not answer must keep the pod from ending. The holder keeps its view; the name is free.
func (m *Manager) unmount(ctx context.Context, pod *corev1.Pod, target string) error {
	for range unmountTries {
		err, ok := answers(func() error { return m.m.Unmount(target, false) }, nil)
		if !ok {
			return m.detach(pod, target, "does not answer")
		}
		if err == nil || !errors.Is(err, unix.EBUSY) {
			return err
		}
		select {
		case <-ctx.Done():
			return err
		case <-time.After(unmountWait):
		}
	}
	return m.detach(pod, target, "is still used by "+describe(holders("/proc", target)))
}

// detach takes the mount out of the tree at once, and tells why.
func (m *Manager) detach(pod *corev1.Pod, target, why string) error {
	m.log.Warn("Volume could not be unmounted, detached it", logkey.Pod, pod.Namespace+"/"+pod.Name, logkey.Path, target, "reason", why)
	if pod.Name != "" {
		m.cfg.OnEvent(pod, corev1.EventTypeWarning, "FailedUnmount",
			fmt.Sprintf("Volume at %s %s; it was detached, and goes when it can", target, why))
	}
	return m.m.Unmount(target, true)
}
