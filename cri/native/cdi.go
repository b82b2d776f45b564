package native

import (
	"context"
	"fmt"
	"maps"
	"slices"

	specs "github.com/opencontainers/runtime-spec/specs-go"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
	"tags.cncf.io/container-device-interface/pkg/cdi"

	"github.com/reevehq/reeve/internal/logkey"
)

// injectDevices adds the Container Device Interface's devices that the kubelet asks for, in the field and by annotations
// (cdi.k8s.io/…), to a spec. The vendors' files are read anew each time: containers that want such devices are few, and a
// watch would cost every node.
func (r *Runtime) injectDevices(_ context.Context, s *specs.Spec, config *runtimeapi.ContainerConfig) error {
	_, names, err := cdi.ParseAnnotations(config.Annotations)
	if err != nil {
		return fmt.Errorf("CDI annotations: %w", err)
	}
	for _, d := range config.CDIDevices {
		if !slices.Contains(names, d.Name) {
			names = append(names, d.Name)
		}
	}
	if len(names) == 0 {
		return nil
	}
	cache, err := cdi.NewCache(cdi.WithSpecDirs(r.cfg.CDIDirs...), cdi.WithAutoRefresh(false))
	if err != nil {
		return fmt.Errorf("read CDI specifications: %w", err)
	}
	unknown, err := cache.InjectDevices(s, names...)
	if err == nil {
		return nil
	}
	// A broken file of another vendor must not be what the user reads, unless it could have held the device.
	for _, path := range slices.Sorted(maps.Keys(cache.GetErrors())) {
		r.log.Warn("Found a CDI specification that cannot be used", logkey.Path, path, logkey.Err, cache.GetErrors()[path])
	}
	if len(unknown) > 0 {
		return fmt.Errorf("CDI devices %q are in no specification in %q", unknown, r.cfg.CDIDirs)
	}
	return fmt.Errorf("inject CDI devices %q: %w", names, err)
}
