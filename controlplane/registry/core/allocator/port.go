package allocator

import (
	"context"
	"errors"
	"fmt"
	"math/big"
	"math/rand/v2"

	corev1 "k8s.io/api/core/v1"
	utilnet "k8s.io/apimachinery/pkg/util/net"
)

// RangeStore holds the one RangeAllocation of the node ports.
type RangeStore interface {
	// Get returns it, or an empty one when there is none yet.
	Get(ctx context.Context) (*corev1.RangeAllocation, error)
	// Update changes it in one transaction; change may run several times and its error aborts.
	Update(ctx context.Context, change func(*corev1.RangeAllocation) error) error
}

var errPortTaken = errors.New("provided port is already allocated")

// ports allocates node ports as bits of a RangeAllocation: bit i of data, read as a big-endian number, is port base+i.
type ports struct {
	store RangeStore
	r     utilnet.PortRange
	rand  func() *rand.Rand
}

// The lower band is a 32nd of the range, between 16 and 128 ports; small ranges have none (upstream's figures).
const (
	portLowerMin, portLowerMax, portLowerPart = 16, 128, 32
)

func (p *ports) lower() int {
	if p.r.Size <= portLowerMin {
		return 0
	}
	return min(max(p.r.Size/portLowerPart, portLowerMin), portLowerMax)
}

func (p *ports) bit(port int32) (int, error) {
	if !p.r.Contains(int(port)) {
		return 0, fmt.Errorf("provided port is not in the valid range. The range of valid ports is %s", p.r.String())
	}
	return int(port) - p.r.Base, nil
}

// bits reads the allocation. One that was written for another range is carried over port by port, so that the range
// may be changed between starts.
func (p *ports) bits(a *corev1.RangeAllocation) *big.Int {
	n := new(big.Int).SetBytes(a.Data)
	if a.Range == "" || a.Range == p.r.String() {
		return n
	}
	moved := new(big.Int)
	old, err := utilnet.ParsePortRange(a.Range)
	if err != nil {
		return moved
	}
	for i := range old.Size {
		if port := old.Base + i; n.Bit(i) == 1 && p.r.Contains(port) {
			moved.SetBit(moved, port-p.r.Base, 1)
		}
	}
	return moved
}

func (p *ports) change(ctx context.Context, change func(*big.Int) error) error {
	ctx, cancel := context.WithTimeout(ctx, storeTimeout)
	defer cancel()
	return p.store.Update(ctx, func(a *corev1.RangeAllocation) error {
		n := p.bits(a)
		if err := change(n); err != nil {
			return err
		}
		a.Range, a.Data = p.r.String(), n.Bytes()
		return nil
	})
}

func (p *ports) read(ctx context.Context) (*big.Int, error) {
	ctx, cancel := context.WithTimeout(ctx, storeTimeout)
	defer cancel()
	a, err := p.store.Get(ctx)
	if err != nil {
		return nil, fmt.Errorf("read node-port allocation: %w", err)
	}
	return p.bits(a), nil
}

// allocate takes port; errPortTaken when it is taken.
func (p *ports) allocate(ctx context.Context, port int32, dry bool) error {
	i, err := p.bit(port)
	if err != nil {
		return err
	}
	take := func(n *big.Int) error {
		if n.Bit(i) == 1 {
			return errPortTaken
		}
		n.SetBit(n, i, 1)
		return nil
	}
	if dry {
		n, err := p.read(ctx)
		if err != nil {
			return err
		}
		return take(n)
	}
	err = p.change(ctx, take)
	countPort(scopeStatic, err)
	return err
}

// allocateNext takes a free port, none of avoid: those that a dry run has promised already.
func (p *ports) allocateNext(ctx context.Context, dry bool, avoid map[int32]bool) (int32, error) {
	var got int32
	take := func(n *big.Int) error {
		lower := p.lower()
		upper := p.r.Size - lower
		start := p.rand().IntN(upper)
		try := func(i int) bool {
			port := int32(p.r.Base + i)
			if n.Bit(i) == 1 || avoid[port] {
				return false
			}
			n.SetBit(n, i, 1)
			got = port
			return true
		}
		for i := range upper {
			if try(lower + (start+i)%upper) {
				return nil
			}
		}
		for i := range lower {
			if try(i) {
				return nil
			}
		}
		return errFull
	}
	if dry {
		n, err := p.read(ctx)
		if err != nil {
			return 0, err
		}
		err = take(n)
		return got, err
	}
	err := p.change(ctx, take)
	countPort(scopeDynamic, err)
	if err != nil {
		return 0, err
	}
	return got, nil
}

// release gives ports back; those outside the range, or free, are left as they are.
func (p *ports) release(ctx context.Context, list []int32) error {
	if len(list) == 0 {
		return nil
	}
	err := p.change(context.WithoutCancel(ctx), func(n *big.Int) error {
		for _, port := range list {
			if i, err := p.bit(port); err == nil {
				n.SetBit(n, i, 0)
			}
		}
		return nil
	})
	if err != nil {
		return fmt.Errorf("release node ports %v: %w", list, err)
	}
	return nil
}
