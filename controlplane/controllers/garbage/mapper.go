package garbage

import (
	"fmt"
	"strings"
	"sync"

	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/client-go/discovery"
)

// mapper knows each kind's resource and scope, at every served version: owner references may name any of them.
type mapper struct {
	mu    sync.RWMutex
	kinds map[schema.GroupVersionKind]mapping
	back  map[schema.GroupVersionResource]schema.GroupVersionKind
}

type mapping struct {
	schema.GroupVersionResource
	namespaced bool
}

func newMapper() *mapper {
	return &mapper{kinds: map[schema.GroupVersionKind]mapping{}, back: map[schema.GroupVersionResource]schema.GroupVersionKind{}}
}

// learn replaces what is known by what discovery says; groups that fail keep what was known of them.
func (m *mapper) learn(d discovery.DiscoveryInterface) {
	_, lists, _ := d.ServerGroupsAndResources()
	m.mu.Lock()
	defer m.mu.Unlock()
	for _, l := range lists {
		gv, err := schema.ParseGroupVersion(l.GroupVersion)
		if err != nil {
			continue
		}
		for _, r := range l.APIResources {
			if !strings.Contains(r.Name, "/") {
				m.kinds[gv.WithKind(r.Kind)] = mapping{gv.WithResource(r.Name), r.Namespaced}
			}
		}
	}
}

func (m *mapper) note(gvr schema.GroupVersionResource, k schema.GroupVersionKind) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.back[gvr] = k
}

func (m *mapper) kind(gvr schema.GroupVersionResource) (schema.GroupVersionKind, bool) {
	m.mu.RLock()
	defer m.mu.RUnlock()
	k, ok := m.back[gvr]
	return k, ok
}

// resource is where objects of the kind are found. Unknown kinds are an error: perhaps they are just not discovered yet.
func (m *mapper) resource(k schema.GroupVersionKind) (mapping, error) {
	m.mu.RLock()
	defer m.mu.RUnlock()
	if r, ok := m.kinds[k]; ok {
		return r, nil
	}
	return mapping{}, fmt.Errorf("no resource is known for kind %s", k)
}
