package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"k8s.io/utils/ptr"

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
	// ServiceProxy says whether a Service proxy of ours ever ran here; else Service rules are another's. Nil: it ran a build
	// that did not record it.
	ServiceProxy *bool `json:"serviceProxy,omitempty"`
}

func instanceOf(o *nodeOptions) instance {
	return instance{
		RootDir: o.RootDir, PodLogsDir: o.PodLogsDir, CgroupRoot: o.CgroupRoot, CgroupDriver: o.CgroupDriver,
		Containerd: o.ContainerdAddress, Network: o.Network, CNIConfDir: o.CNIConfDir, CNIBinDirs: o.CNIBinDirs,
		ClusterCIDR: o.ClusterCIDR, ClusterDNS: o.ClusterDNS, RemoteCRI: o.RuntimeEndpoint,
		ServiceProxy: ptr.To(o.ProxyMode != "none"),
	}
}

func instanceFile(dir datadir.Dir) string { return filepath.Join(dir.Agent(), "instance.json") }

// write records the instance. What an earlier one made may still be there.
func (i instance) write(dir datadir.Dir) error {
	if before, ran, err := readInstance(dir); err == nil && ran {
		switch {
		case ptr.Deref(before.ServiceProxy, false) || ptr.Deref(i.ServiceProxy, false):
			i.ServiceProxy = ptr.To(true)
		case before.ServiceProxy == nil:
			i.ServiceProxy = nil
		}
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
		record := struct {
			*instance
			NoProxy bool `json:"noProxy"` // in place of ServiceProxy, in builds that recorded nothing where one ran
		}{instance: &i}
		err = json.Unmarshal(b, &record)
		if record.NoProxy && i.ServiceProxy == nil {
			i.ServiceProxy = ptr.To(false)
		}
	}
	if err != nil {
		return i, false, fmt.Errorf("read what the agent recorded of itself: %w", err)
	}
	return i, true, nil
}

// ownsServiceRules says whether the host's Service rules are ours to remove: by the user's choice, "remove" or "keep", or,
// without one, by the record. The error names what to choose where the record does not tell.
func (i instance) ownsServiceRules(choice string) (bool, error) {
	switch choice {
	case "remove", "keep":
		return choice == "remove", nil
	case "":
	default:
		return false, fmt.Errorf("--service-rules %q is unknown; use remove or keep", choice)
	}
	if i.ServiceProxy == nil {
		return false, errors.New("an earlier build of reeve ran here, which did not record whether it programmed Services, and its rules bear the names of " +
			"kube-proxy's; nothing was changed. Give --service-rules=remove where reeve did, or --service-rules=keep where another kube-proxy does")
	}
	return *i.ServiceProxy, nil
}

// podFolders are the folders below which pods' volumes are mounted; none for the runtime alone.
func (i instance) podFolders() []string {
	if i.RootDir == "" {
		return nil
	}
	return []string{filepath.Join(i.RootDir, "pods")}
}
