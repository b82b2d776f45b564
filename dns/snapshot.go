package dns

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"github.com/coredns/coredns/plugin/kubernetes/object"
)

// snapshotVersion is the format of the file. Others are passed over: the names come again from the API.
const snapshotVersion = 1

// snapshot is the records on disk.
type snapshot struct {
	Version    int                          `json:"version"`
	Services   []*object.Service            `json:"services"`
	Slices     map[string]*object.Endpoints `json:"slices"`
	Namespaces []string                     `json:"namespaces"`
}

// save writes the records, atomically, when they are complete and have changed since the last time.
func (r *records) save(path string) error {
	if path == "" || !r.HasSynced() {
		return nil
	}
	r.mu.RLock()
	generation := r.generation
	if generation == r.saved {
		r.mu.RUnlock()
		return nil
	}
	s := snapshot{Version: snapshotVersion, Slices: r.slices}
	for _, svc := range r.services {
		s.Services = append(s.Services, svc)
	}
	for n := range r.namespaces {
		s.Namespaces = append(s.Namespaces, n)
	}
	data, err := json.Marshal(s)
	r.mu.RUnlock()
	if err != nil {
		return fmt.Errorf("encode the cluster's names: %w", err)
	}
	tmp := filepath.Join(filepath.Dir(path), "."+filepath.Base(path)+".tmp")
	if err := os.WriteFile(tmp, data, 0o600); err != nil {
		return fmt.Errorf("write the cluster's names: %w", err)
	}
	if err := os.Rename(tmp, path); err != nil {
		return fmt.Errorf("write the cluster's names: %w", err)
	}
	r.mu.Lock()
	r.saved = generation
	r.mu.Unlock()
	return nil
}

// load takes over what an earlier process saved, and answers whether there was anything. The API's first lists replace
// it, a moment later where the API is there.
func (r *records) load(path string) (bool, error) {
	if path == "" {
		return false, nil
	}
	data, err := os.ReadFile(path)
	if errors.Is(err, fs.ErrNotExist) {
		return false, nil
	}
	if err != nil {
		return false, fmt.Errorf("read the cluster's names: %w", err)
	}
	var s snapshot
	if err := json.Unmarshal(data, &s); err != nil {
		return false, fmt.Errorf("read the cluster's names from %q: %w", path, err)
	}
	if s.Version != snapshotVersion {
		return false, nil
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, svc := range s.Services {
		// The plugin looks at the first cluster IP and the first port without asking.
		if svc != nil && svc.Index != "" && len(svc.ClusterIPs) > 0 && len(svc.Ports) > 0 {
			r.putService(svc)
		}
	}
	for key, e := range s.Slices {
		if e != nil && e.Index != "" {
			r.putSlice(key, e)
		}
	}
	for _, n := range s.Namespaces {
		r.namespaces[n] = struct{}{}
	}
	r.markSynced(&r.synced.services)
	r.markSynced(&r.synced.slices)
	r.markSynced(&r.synced.namespaces)
	r.saved = r.generation
	return true, nil
}
