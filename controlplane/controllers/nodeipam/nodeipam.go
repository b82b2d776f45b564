package nodeipam

import (
	"context"
	"fmt"
	"net/netip"
	"sync"

	v1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/kubernetes"
	corelisters "k8s.io/client-go/listers/core/v1"
	"k8s.io/client-go/tools/record"
	nodeutil "k8s.io/component-helpers/node/util"

	"github.com/reevehq/reeve/controlplane/controllers/loop"
	"github.com/reevehq/reeve/internal/logkey"
)

// Config is what New needs besides the environment.
type Config struct {
	ClusterCIDRs       []netip.Prefix
	MaskIPv4, MaskIPv6 int
	// Reserved ranges are never handed out.
	Reserved []netip.Prefix
}

// Controller is the node IPAM controller.
type Controller struct {
	*loop.Loop
	client   kubernetes.Interface
	recorder record.EventRecorder
	nodes    corelisters.NodeLister

	mu    sync.Mutex
	pools []*Pool
	held  map[string][]netip.Prefix // by node name
	wrote map[string]types.UID      // nodes whose range we wrote, which the cache may not show yet
	ready bool
}

// New makes the controller.
func New(env loop.Env, cfg Config) (*Controller, error) {
	c := &Controller{
		client: env.Client, recorder: env.Recorder("cidrAllocator"),
		nodes: env.Informers.Core().V1().Nodes().Lister(), held: map[string][]netip.Prefix{}, wrote: map[string]types.UID{},
	}
	for _, cidr := range cfg.ClusterCIDRs {
		mask := cfg.MaskIPv6
		if cidr.Addr().Is4() {
			mask = cfg.MaskIPv4
		}
		p, err := NewPool(cidr, mask)
		if err != nil {
			return nil, err
		}
		for _, r := range cfg.Reserved {
			p.Occupy(r)
		}
		c.pools = append(c.pools, p)
	}
	c.Loop = loop.New("node-ipam-controller", env.Log, 1, c.reconcile)
	look := func(n *v1.Node) {
		if len(n.Spec.PodCIDRs) == 0 || !c.holds(n.Name) {
			c.Add(n.Name)
		}
	}
	c.On(env.Informers.Core().V1().Nodes().Informer(), loop.Typed[*v1.Node]{
		Add: look, Update: func(_, n *v1.Node) { look(n) }, Delete: func(n *v1.Node) { c.Add(n.Name) },
	})
	return c, nil
}

func (c *Controller) holds(name string) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return len(c.held[name]) > 0
}

// load marks what nodes have already, before the first range is given out.
func (c *Controller) load() error {
	if c.ready {
		return nil
	}
	nodes, err := c.nodes.List(labels.Everything())
	if err != nil {
		return fmt.Errorf("list nodes: %w", err)
	}
	for _, n := range nodes {
		if len(n.Spec.PodCIDRs) > 0 {
			c.hold(n)
		}
	}
	c.ready = true
	return nil
}

func (c *Controller) hold(n *v1.Node) {
	if len(c.held[n.Name]) > 0 {
		return
	}
	for _, s := range n.Spec.PodCIDRs {
		q, err := netip.ParsePrefix(s)
		if err != nil {
			continue // validated by the API; a foreign form only costs its reservation
		}
		for _, p := range c.pools {
			p.Occupy(q)
		}
		c.held[n.Name] = append(c.held[n.Name], q)
	}
}

func (c *Controller) release(name string) {
	for _, q := range c.held[name] {
		for _, p := range c.pools {
			p.Release(q)
		}
	}
	delete(c.held, name)
	delete(c.wrote, name)
}

func (c *Controller) reconcile(ctx context.Context, name string) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if err := c.load(); err != nil {
		return err
	}
	node, err := c.nodes.Get(name)
	if apierrors.IsNotFound(err) {
		c.release(name)
		return c.retryOthers() // one that found the pools empty may have its range now
	}
	if err != nil {
		return err
	}
	if len(node.Spec.PodCIDRs) > 0 {
		c.hold(node)
		return nil
	}
	if c.wrote[name] == node.UID {
		return nil
	}
	c.release(name) // a node of the same name that was made anew
	var ranges []netip.Prefix
	for _, p := range c.pools {
		q, err := p.Next()
		if err != nil {
			c.give(ranges)
			c.recorder.Eventf(node, v1.EventTypeNormal, "CIDRNotAvailable", "Node %s status is now: %s", name, "CIDRNotAvailable")
			return fmt.Errorf("allocate pod range for node %q: %w", name, err)
		}
		ranges = append(ranges, q)
	}
	var strs []string
	for _, q := range ranges {
		strs = append(strs, q.String())
	}
	cctx, cancel := context.WithTimeout(ctx, loop.CallTimeout)
	defer cancel()
	if err := nodeutil.PatchNodeCIDRs(cctx, c.client, types.NodeName(name), strs); err != nil {
		c.give(ranges)
		if apierrors.IsNotFound(err) {
			return nil
		}
		return fmt.Errorf("write pod ranges %v of node %q: %w", strs, name, err)
	}
	c.held[name], c.wrote[name] = ranges, node.UID
	c.Log().Info("Assigned pod range", logkey.Node, name, "podCIDRs", strs)
	return nil
}

func (c *Controller) retryOthers() error {
	nodes, err := c.nodes.List(labels.Everything())
	if err != nil {
		return err
	}
	for _, n := range nodes {
		if len(n.Spec.PodCIDRs) == 0 {
			c.Add(n.Name)
		}
	}
	return nil
}

func (c *Controller) give(ranges []netip.Prefix) {
	for i, q := range ranges {
		c.pools[i].Release(q)
	}
}
