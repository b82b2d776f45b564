package allocator

import (
	"net/netip"
	"slices"
	"strconv"
	"sync"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"
)

// held is what one Service holds, or a transaction has taken for it.
type held struct {
	addresses []netip.Addr
	ports     []int32
}

func heldBy(s *corev1.Service) held { return held{clusterAddresses(s), nodePorts(s)} }

func (h held) empty() bool { return len(h.addresses) == 0 && len(h.ports) == 0 }

func (h held) add(o held) held {
	return held{union(h.addresses, o.addresses), union(h.ports, o.ports)}
}

func (h held) without(o held) held {
	return held{minus(h.addresses, o.addresses), minus(h.ports, o.ports)}
}

func union[T comparable](a, b []T) []T {
	out := slices.Clone(a)
	for _, v := range b {
		if !slices.Contains(out, v) {
			out = append(out, v)
		}
	}
	return out
}

func minus[T comparable](a, b []T) []T {
	return slices.DeleteFunc(slices.Clone(a), func(v T) bool { return slices.Contains(b, v) })
}

// pending remembers, from a begun update to its commit, what may have to be released after it.
//
// An update's transaction may be tried several times, each time from a newer object, and several updates may be under way
// at once. So nothing is released when a transaction begins: each try leaves what the object held before and what was
// taken, under the version that it started from. After a commit, everything left by tries from older versions that the
// committed object does not hold goes back. Tries from the committed version on are somebody else's and still open.
type pending struct {
	mu    sync.Mutex
	byUID map[types.UID][]try
}

type try struct {
	from uint64 // resourceVersion
	held held
	at   time.Time
}

// pendingMax is how long a try is kept when its commit is never heard of (the store failed): the repair loop finds what
// it left.
const pendingMax = 10 * time.Minute

func (p *pending) begin(old *corev1.Service, taken held, now time.Time) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.byUID == nil {
		p.byUID = map[types.UID][]try{}
	}
	p.byUID[old.UID] = append(p.byUID[old.UID], try{version(old), heldBy(old).add(taken), now})
	for uid, tries := range p.byUID {
		tries = slices.DeleteFunc(tries, func(t try) bool { return now.Sub(t.at) > pendingMax })
		if len(tries) == 0 {
			delete(p.byUID, uid)
		} else {
			p.byUID[uid] = tries
		}
	}
}

// committed returns what to release now that s has been stored.
func (p *pending) committed(s *corev1.Service) held {
	p.mu.Lock()
	defer p.mu.Unlock()
	var out, open held
	var rest []try
	for _, t := range p.byUID[s.UID] {
		if t.from < version(s) {
			out = out.add(t.held)
		} else {
			open = open.add(t.held)
			rest = append(rest, t)
		}
	}
	if len(rest) == 0 {
		delete(p.byUID, s.UID)
	} else {
		p.byUID[s.UID] = rest
	}
	return out.without(heldBy(s)).without(open)
}

// holds says whether an open try of the Service has the port.
func (p *pending) holds(uid types.UID, port int32) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	return slices.ContainsFunc(p.byUID[uid], func(t try) bool { return slices.Contains(t.held.ports, port) })
}

// all is what open tries hold.
func (p *pending) all() held {
	p.mu.Lock()
	defer p.mu.Unlock()
	var out held
	for _, tries := range p.byUID {
		for _, t := range tries {
			out = out.add(t.held)
		}
	}
	return out
}

func (p *pending) forget(uid types.UID) {
	p.mu.Lock()
	defer p.mu.Unlock()
	delete(p.byUID, uid)
}

// version compares only objects of one store, where resource versions are growing numbers.
func version(s *corev1.Service) uint64 {
	n, _ := strconv.ParseUint(s.ResourceVersion, 10, 64) // 0 when unset: older than anything stored
	return n
}
