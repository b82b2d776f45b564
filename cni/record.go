package cni

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"net/netip"
	"os"
	"path/filepath"
	"strings"

	"github.com/reevehq/reeve/internal/podnet"
)

// recordVersion is the format of the record files. Readers refuse newer ones.
const recordVersion = 1

// record is what one sandbox was given. It is on disk before anything of it is in the kernel, and until all of it is out
// of the kernel.
type record struct {
	Version      int                  `json:"version"`
	SandboxID    string               `json:"sandboxID"`
	NetNS        string               `json:"netns"`
	PodNamespace string               `json:"podNamespace,omitempty"`
	PodName      string               `json:"podName,omitempty"`
	PodUID       string               `json:"podUID,omitempty"`
	HostLink     string               `json:"hostLink"`
	IPs          []netip.Addr         `json:"ips"`
	Ports        []podnet.PortMapping `json:"ports,omitempty"`
	Bandwidth    bandwidth            `json:"bandwidth,omitzero"`
}

// recordStore is the folder of record files, one a sandbox.
type recordStore struct{ dir string }

const recordSuffix = ".json"

func (s recordStore) path(sandboxID string) string {
	return filepath.Join(s.dir, sandboxID+recordSuffix)
}

// write replaces the file atomically. It is not synced: after a power loss there is no pod that it could describe.
func (s recordStore) write(r *record) error {
	data, err := json.Marshal(r)
	if err != nil {
		return fmt.Errorf("encode network record %q: %w", r.SandboxID, err)
	}
	tmp := filepath.Join(s.dir, "."+r.SandboxID+".tmp")
	if err := os.WriteFile(tmp, data, 0o600); err != nil {
		return fmt.Errorf("write network record %q: %w", r.SandboxID, err)
	}
	if err := os.Rename(tmp, s.path(r.SandboxID)); err != nil {
		return fmt.Errorf("write network record %q: %w", r.SandboxID, err)
	}
	return nil
}

// rangesFile keeps the node's ranges beside the records, so that the network is ready after a restart while the API,
// which tells them, is away.
const rangesFile = "ranges"

func (s recordStore) writeRanges(ranges []netip.Prefix) error {
	data, err := json.Marshal(ranges)
	if err != nil {
		return fmt.Errorf("encode pod CIDRs: %w", err)
	}
	tmp := filepath.Join(s.dir, "."+rangesFile+".tmp")
	if err := os.WriteFile(tmp, data, 0o600); err != nil {
		return fmt.Errorf("write pod CIDRs: %w", err)
	}
	if err := os.Rename(tmp, filepath.Join(s.dir, rangesFile)); err != nil {
		return fmt.Errorf("write pod CIDRs: %w", err)
	}
	return nil
}

// loadRanges answers none when none were written.
func (s recordStore) loadRanges() ([]netip.Prefix, error) {
	data, err := os.ReadFile(filepath.Join(s.dir, rangesFile))
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	var ranges []netip.Prefix
	if err == nil {
		err = json.Unmarshal(data, &ranges)
	}
	if err != nil {
		return nil, fmt.Errorf("read the last pod CIDRs: %w", err)
	}
	return ranges, nil
}

func (s recordStore) removeRanges() error {
	if err := os.Remove(filepath.Join(s.dir, rangesFile)); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("remove the last pod CIDRs: %w", err)
	}
	return nil
}

func (s recordStore) remove(sandboxID string) error {
	if err := os.Remove(s.path(sandboxID)); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("remove network record %q: %w", sandboxID, err)
	}
	return nil
}

// load reads all records. Files that cannot be read as one are returned as errors beside the rest, so that one broken
// file does not lose the others.
func (s recordStore) load() (map[string]*record, error) {
	if err := os.MkdirAll(s.dir, 0o700); err != nil {
		return nil, fmt.Errorf("create network state folder %q: %w", s.dir, err)
	}
	entries, err := os.ReadDir(s.dir)
	if err != nil {
		return nil, fmt.Errorf("read network state folder %q: %w", s.dir, err)
	}
	records := map[string]*record{}
	var errs []error
	for _, e := range entries {
		path := filepath.Join(s.dir, e.Name())
		if strings.HasSuffix(e.Name(), ".tmp") {
			_ = os.Remove(path) // a write that never finished
			continue
		}
		id, ok := strings.CutSuffix(e.Name(), recordSuffix)
		if !ok {
			continue
		}
		data, err := os.ReadFile(path)
		if err != nil {
			errs = append(errs, fmt.Errorf("read network record %q: %w", path, err))
			continue
		}
		r := &record{}
		if err := json.Unmarshal(data, r); err != nil || r.SandboxID != id {
			errs = append(errs, fmt.Errorf("read network record %q: it is not the record of sandbox %q (%v)", path, id, err))
			continue
		}
		if r.Version > recordVersion {
			return nil, fmt.Errorf("read network record %q: version %d is of a newer reeve; this one reads up to %d", path, r.Version, recordVersion)
		}
		records[id] = r
	}
	return records, errors.Join(errs...)
}
