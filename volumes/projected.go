package volumes

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"sync"
	"time"

	corev1 "k8s.io/api/core/v1"
)

// projectedPayload gathers all sources at once and lays them over one another in their order. refresh is when the
// earliest token among them must be renewed.
func (m *Manager) projectedPayload(ctx context.Context, pod *corev1.Pod, src *corev1.ProjectedVolumeSource, dir string) (payload, time.Time, error) {
	type part struct {
		p       payload
		refresh time.Time
		err     error
	}
	parts := make([]part, len(src.Sources))
	mode := modeOr(src.DefaultMode)
	var wg sync.WaitGroup
	for i := range src.Sources {
		s, out := &src.Sources[i], &parts[i]
		switch {
		case s.ConfigMap != nil:
			wg.Go(func() {
				out.p, out.err = m.configMapPayload(ctx, pod.Namespace, s.ConfigMap.Name, s.ConfigMap.Items, mode, isTrue(s.ConfigMap.Optional))
			})
		case s.Secret != nil:
			wg.Go(func() {
				out.p, out.err = m.secretPayload(ctx, pod.Namespace, s.Secret.Name, s.Secret.Items, mode, isTrue(s.Secret.Optional))
			})
		case s.DownwardAPI != nil:
			out.p, out.err = m.downwardPayload(pod, s.DownwardAPI.Items, mode)
		case s.ServiceAccountToken != nil:
			wg.Go(func() { out.p, out.refresh, out.err = m.tokenPayload(ctx, pod, s.ServiceAccountToken, mode, dir) })
		case s.ClusterTrustBundle != nil:
			out.err = fmt.Errorf("projected source %d: clusterTrustBundle is not supported by this node", i)
		case s.PodCertificate != nil:
			out.err = fmt.Errorf("projected source %d: podCertificate is not supported by this node", i)
		default:
			out.err = fmt.Errorf("projected source %d is of a kind that this node does not support", i)
		}
	}
	wg.Wait()
	all := payload{}
	var refresh time.Time
	var errs []error
	for _, o := range parts {
		if o.err != nil {
			errs = append(errs, o.err)
			continue
		}
		maps.Copy(all, o.p)
		if !o.refresh.IsZero() && (refresh.IsZero() || o.refresh.Before(refresh)) {
			refresh = o.refresh
		}
	}
	if err := errors.Join(errs...); err != nil {
		return nil, refresh, err
	}
	return all, refresh, nil
}

// tokenPayload is a service account token as a file. With an fsGroup, or one user for all containers, it is closed to
// others (0600) and given to them; else every user of the pod may read it by the mode.
func (m *Manager) tokenPayload(ctx context.Context, pod *corev1.Pod, src *corev1.ServiceAccountTokenProjection, mode int32, dir string) (payload, time.Time, error) {
	f := file{mode: uint32(mode), uid: -1}
	user := commonUser(pod)
	if user != nil || fsGroup(pod) != nil {
		f.mode = 0o600
	}
	if user != nil {
		f.uid = int(*user)
	}
	m.tokens.adopt(pod, src, func() ([]byte, error) { return os.ReadFile(filepath.Join(dir, dataLink, filepath.Clean("/"+src.Path))) })
	tok, refresh, err := m.tokens.get(ctx, pod, src)
	if err != nil {
		return nil, time.Time{}, fmt.Errorf("failed to fetch token: %w", err)
	}
	f.data = []byte(tok)
	p := payload{}
	if err := p.add(src.Path, f); err != nil {
		return nil, time.Time{}, err
	}
	return p, refresh, nil
}
