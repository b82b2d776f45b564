package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"github.com/reevehq/reeve/internal/datadir"
)

// instance is what a node agent changes on the host outside of its data-dir. It is written before anything is made, so
// that `reeve cleanup` finds all of it, whatever flags it gets and however the agent ended.
type instance struct {
	RootDir      string   `json:"rootDir"`
	PodLogsDir   string   `json:"podLogsDir"`
	CgroupRoot   string   `json:"cgroupRoot"`
	CgroupDriver string   `json:"cgroupDriver"`
	Containerd   string   `json:"containerd"` // --containerd-address
	Network      string   `json:"network"`
	CNIConfDir   string   `json:"cniConfDir"`
	CNIBinDirs   []string `json:"cniBinDirs"`
	ClusterCIDR  string   `json:"clusterCIDR"`
	ClusterDNS   []string `json:"clusterDNS"`
	RemoteCRI    string   `json:"remoteCRI,omitempty"`
	// NoProxy: no Service proxy of ours ever ran here, so that Service rules are another's.
	NoProxy bool `json:"noProxy,omitempty"`
}

func instanceOf(o *nodeOptions) instance {
	return instance{
		RootDir: o.RootDir, PodLogsDir: o.PodLogsDir, CgroupRoot: o.CgroupRoot, CgroupDriver: o.CgroupDriver,
		Containerd: o.ContainerdAddress, Network: o.Network, CNIConfDir: o.CNIConfDir, CNIBinDirs: o.CNIBinDirs,
		ClusterCIDR: o.ClusterCIDR, ClusterDNS: o.ClusterDNS, RemoteCRI: o.RuntimeEndpoint,
		NoProxy: o.ProxyMode == "none",
	}
}

func instanceFile(dir datadir.Dir) string { return filepath.Join(dir.Agent(), "instance.json") }

// write records the instance. What an earlier one made may still be there.
func (i instance) write(dir datadir.Dir) error {
	if before, ran, err := readInstance(dir); err == nil && ran {
		i.NoProxy = i.NoProxy && before.NoProxy
	}
	b, err := json.MarshalIndent(i, "", "  ")
	if err != nil {
		return err
	}
	if err := os.MkdirAll(dir.Agent(), 0o700); err != nil {
		return fmt.Errorf("make the agent's folder: %w", err)
	}
	return datadir.WriteFile(instanceFile(dir), append(b, '\n'), 0o600)
}

// readInstance answers ok=false where no agent ever ran with this data-dir.
func readInstance(dir datadir.Dir) (i instance, ok bool, err error) {
	b, err := os.ReadFile(instanceFile(dir))
	if errors.Is(err, fs.ErrNotExist) {
		return i, false, nil
	}
	if err == nil {
		err = json.Unmarshal(b, &i)
	}
	if err != nil {
		return i, false, fmt.Errorf("read what the agent recorded of itself: %w", err)
	}
	return i, true, nil
}

// podFolders are the folders below which pods' volumes are mounted; none for the runtime alone.
func (i instance) podFolders() []string {
	if i.RootDir == "" {
		return nil
	}
	return []string{filepath.Join(i.RootDir, "pods")}
}
