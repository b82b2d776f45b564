package cni

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strings"

	"github.com/containernetworking/cni/libcni"
	"github.com/containernetworking/cni/pkg/invoke"
	"github.com/containernetworking/cni/pkg/types"
	"github.com/containernetworking/cni/pkg/version"

	"github.com/reevehq/reeve/cni/netns"
	"github.com/reevehq/reeve/internal/podnet"
)

// Add runs ADD of every plugin of the list. After an error the plugins' DEL has been run.
func (c *Conflist) Add(ctx context.Context, req podnet.Request) (podnet.Result, error) {
	fail := func(err error) (podnet.Result, error) {
		return podnet.Result{}, fmt.Errorf("set up network for sandbox %q: %w", req.SandboxID, err)
	}
	if err := checkRequest(req); err != nil {
		return fail(err)
	}
	list, err := c.network()
	if err != nil {
		return fail(err)
	}
	rt, err := runtimeConf(req)
	if err != nil {
		return fail(err)
	}
	c.touch(req.SandboxID)
	c.adding.RLock()
	defer c.adding.RUnlock()
	addCtx, cancel := context.WithTimeout(ctx, addTimeout)
	defer cancel()
	res, err := c.cni.AddNetworkList(addCtx, list, rt)
	if err == nil {
		c.settle(req.SandboxID)
		var out podnet.Result
		if out, err = podResult(res, req.NetNS); err == nil {
			return out, nil
		}
	}
	undo, cancelUndo := context.WithTimeout(context.WithoutCancel(ctx), teardownTimeout)
	defer cancelUndo()
	if addCtx.Err() != nil { // the plugin was killed, but not what it had started
		if strayErr := endStrays(undo, req.SandboxID, c.log); strayErr != nil {
			err = errors.Join(err, strayErr)
		}
	}
	if undoErr := c.cni.DelNetworkList(undo, list, rt); undoErr != nil {
		err = errors.Join(err, fmt.Errorf("undo: %w", undoErr))
	}
	return fail(fmt.Errorf("run CNI ADD of network %q: %w", list.Name, err))
}

// Del runs DEL with the configuration and arguments that ADD had, which libcni cached. It may be repeated; a sandbox that
// never had a network gets the DEL of the present list, as the specification wants.
func (c *Conflist) Del(ctx context.Context, req podnet.Request) error {
	if !sandboxIDPattern.MatchString(req.SandboxID) {
		return fmt.Errorf("tear down network: sandbox ID %q is not one", req.SandboxID)
	}
	ctx, cancel := context.WithTimeout(ctx, delTimeout)
	defer cancel()
	if c.mayStray(req.SandboxID) {
		if err := endStrays(ctx, req.SandboxID, c.log); err != nil {
			return fmt.Errorf("tear down network of sandbox %q: %w", req.SandboxID, err)
		}
	}
	attached, err := c.cni.GetCachedAttachments(req.SandboxID)
	if err != nil {
		return fmt.Errorf("tear down network of sandbox %q: %w", req.SandboxID, err)
	}
	for _, a := range attached {
		list, err := libcni.ConfListFromBytes(a.Config)
		if err != nil {
			return fmt.Errorf("tear down network of sandbox %q: read cached configuration: %w", req.SandboxID, err)
		}
		rt := &libcni.RuntimeConf{
			ContainerID: a.ContainerID, NetNS: req.NetNS, IfName: a.IfName, Args: a.CniArgs, CapabilityArgs: a.CapabilityArgs,
		}
		if rt.NetNS == "" {
			rt.NetNS = a.NetNS
		}
		if err := c.cni.DelNetworkList(ctx, list, rt); err != nil {
			return fmt.Errorf("tear down network of sandbox %q: run CNI DEL of network %q: %w", req.SandboxID, list.Name, err)
		}
	}
	if len(attached) == 0 {
		list, err := c.network()
		if err != nil {
			return nil // no network now and none cached: nothing was made
		}
		rt, err := runtimeConf(req)
		if err != nil {
			return fmt.Errorf("tear down network of sandbox %q: %w", req.SandboxID, err)
		}
		if err := c.cni.DelNetworkList(ctx, list, rt); err != nil {
			return fmt.Errorf("tear down network of sandbox %q: run CNI DEL of network %q: %w", req.SandboxID, list.Name, err)
		}
	}
	c.mu.Lock()
	delete(c.fresh, req.SandboxID)
	delete(c.settled, req.SandboxID)
	c.mu.Unlock()
	return nil
}

// Check runs CHECK. Lists of a specification before 0.4.0, which has none, and networks with disableCheck pass.
func (c *Conflist) Check(ctx context.Context, req podnet.Request, _ podnet.Result) error {
	list, err := c.network()
	if err != nil {
		return fmt.Errorf("check network of sandbox %q: %w", req.SandboxID, err)
	}
	rt, err := runtimeConf(req)
	if err != nil {
		return fmt.Errorf("check network of sandbox %q: %w", req.SandboxID, err)
	}
	ctx, cancel := context.WithTimeout(ctx, delTimeout)
	defer cancel()
	err = c.cni.CheckNetworkList(ctx, list, rt)
	if err != nil && !errors.Is(err, libcni.ErrorCheckNotSupp) {
		return fmt.Errorf("check network of sandbox %q: run CNI CHECK of network %q: %w", req.SandboxID, list.Name, err)
	}
	return nil
}

// Status is an error until a configuration is loaded, its plugins are installed, and their STATUS (specification 1.1.0)
// passes.
func (c *Conflist) Status(ctx context.Context) error {
	list, err := c.network()
	if err != nil {
		return fmt.Errorf("pod network not ready: %w", err)
	}
	for _, p := range list.Plugins {
		for _, name := range []string{p.Network.Type, p.Network.IPAM.Type} {
			if name == "" {
				continue
			}
			if _, err := invoke.FindInPath(name, c.cfg.BinDirs); err != nil {
				return fmt.Errorf("pod network %q not ready: its plugin %q is in none of %s: install the CNI plugins there",
					list.Name, name, strings.Join(c.cfg.BinDirs, ", "))
			}
		}
	}
	ctx, cancel := context.WithTimeout(ctx, delTimeout)
	defer cancel()
	if err := c.cni.GetStatusNetworkList(ctx, list); err != nil {
		return fmt.Errorf("pod network %q not ready: %w", list.Name, err)
	}
	return nil
}

// GC runs DEL for cached attachments of sandboxes that are not in keep (except fresh ones), the plugins' own GC where the
// list is of specification 1.1.0, and removes their namespaces.
func (c *Conflist) GC(ctx context.Context, keepSandboxIDs []string) error {
	// What there is comes first, and then who may keep it: what is begun meanwhile is not there, or is fresh.
	attached, err := c.cni.GetCachedAttachments("")
	if err != nil {
		return fmt.Errorf("collect leaked pod networks: %w", err)
	}
	spaces, err := netns.List(c.cfg.NetNSDir)
	if err != nil {
		return err
	}
	c.mu.Lock()
	keep := keepFresh(keepSandboxIDs, c.fresh)
	c.mu.Unlock()
	var errs []error
	for _, a := range attached {
		if !keep[a.ContainerID] {
			errs = append(errs, c.Del(ctx, podnet.Request{SandboxID: a.ContainerID, NetNS: a.NetNS}))
		}
	}
	errs = append(errs, c.gcPlugins(ctx, keepSandboxIDs), gcNamespaces(spaces, keep))
	return errors.Join(errs...)
}

// gcPlugins runs the plugins' own GC. They, and libcni for them, take away what they are not told of, so also what an ADD is
// making: it waits for a look at which nothing is being added, and ADDs wait for it.
func (c *Conflist) gcPlugins(ctx context.Context, keepSandboxIDs []string) error {
	list, err := c.network()
	if err != nil {
		return nil // whose plugins is not known
	}
	if knows, err := version.GreaterThanOrEqualTo(list.CNIVersion, "1.1.0"); err != nil || !knows || !c.adding.TryLock() {
		return nil
	}
	defer c.adding.Unlock()
	attached, err := c.cni.GetCachedAttachments("")
	if err != nil {
		return fmt.Errorf("run CNI GC of network %q: %w", list.Name, err)
	}
	c.mu.Lock()
	keep := keepFresh(keepSandboxIDs, c.fresh)
	c.mu.Unlock()
	var valid []types.GCAttachment
	for _, a := range attached {
		if keep[a.ContainerID] {
			valid = append(valid, types.GCAttachment{ContainerID: a.ContainerID, IfName: a.IfName})
		}
	}
	ctx, cancel := context.WithTimeout(ctx, delTimeout)
	defer cancel()
	if err := c.cni.GCNetworkList(ctx, list, &libcni.GCArgs{ValidAttachments: valid}); err != nil {
		return fmt.Errorf("run CNI GC of network %q: %w", list.Name, err)
	}
	return nil
}

// runtimeConf is the request in the words of the CNI conventions: CNI_ARGS and capability arguments, which libcni hands
// to the plugins that declare them.
func runtimeConf(req podnet.Request) (*libcni.RuntimeConf, error) {
	rt := &libcni.RuntimeConf{
		ContainerID: req.SandboxID,
		NetNS:       req.NetNS,
		IfName:      podInterface,
		Args: [][2]string{
			{"IgnoreUnknown", "1"},
			{"K8S_POD_NAMESPACE", req.PodNamespace},
			{"K8S_POD_NAME", req.PodName},
			{"K8S_POD_INFRA_CONTAINER_ID", req.SandboxID},
			{"K8S_POD_UID", req.PodUID},
		},
		CapabilityArgs: map[string]any{},
	}
	if ports := usedPorts(req.Ports); len(ports) > 0 {
		mappings := make([]map[string]any, 0, len(ports))
		for _, p := range ports {
			m := map[string]any{
				"hostPort": int(p.HostPort), "containerPort": int(p.ContainerPort), "protocol": lowerProtocol(p.Protocol),
			}
			if p.HostIP.IsValid() {
				m["hostIP"] = p.HostIP.String()
			}
			mappings = append(mappings, m)
		}
		rt.CapabilityArgs["portMappings"] = mappings
	}
	if len(req.DNSServers)+len(req.DNSSearches)+len(req.DNSOptions) > 0 {
		rt.CapabilityArgs["dns"] = map[string]any{
			"servers": req.DNSServers, "searches": req.DNSSearches, "options": req.DNSOptions,
		}
	}
	if req.CgroupParent != "" {
		rt.CapabilityArgs["cgroupPath"] = req.CgroupParent
	}
	if len(req.Annotations) > 0 {
		rt.CapabilityArgs["io.kubernetes.cri.pod-annotations"] = req.Annotations
	}
	limits, err := bandwidthOf(req.Annotations)
	if err != nil {
		return nil, err
	}
	asked := map[string]any{}
	for name, rate := range map[string]int64{"ingress": limits.Ingress, "egress": limits.Egress} {
		if rate > 0 {
			asked[name+"Rate"] = rate
			asked[name+"Burst"] = int64(1<<31 - 1) // as upstream: the rate alone limits
		}
	}
	if len(asked) > 0 {
		rt.CapabilityArgs["bandwidth"] = asked
	}
	if _, err := json.Marshal(rt.CapabilityArgs); err != nil {
		return nil, fmt.Errorf("encode capability arguments: %w", err)
	}
	return rt, nil
}
