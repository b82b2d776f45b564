package node

import (
	"context"
	"encoding/json"
	"fmt"
	"strings"
	"time"

	v1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/strategicpatch"
	"k8s.io/client-go/kubernetes"
	"k8s.io/component-helpers/apimachinery/lease"
	"k8s.io/utils/clock"

	"github.com/reevehq/reeve/internal/logkey"
)

func (m *Manager) statusLoop(ctx context.Context) {
	for {
		wait := m.check(ctx)
		t := time.NewTimer(wait)
		select {
		case <-ctx.Done():
			t.Stop()
			return
		case <-m.kick:
		case <-m.cfg.NetworkChanged:
		case <-t.C:
		}
		t.Stop()
	}
}

// check looks at the node and reports what changed. It returns when to look again.
func (m *Manager) check(ctx context.Context) time.Duration {
	now := time.Now()
	m.mu.Lock()
	old, at, current := m.reported, m.reportedAt, m.node
	known, first := m.runtime != "", m.reported == nil
	m.mu.Unlock()
	if !known {
		if _, err := m.RuntimeName(ctx); err != nil && ctx.Err() == nil {
			m.log.Warn("Failed to ask the runtime's version", logkey.Err, err)
		}
	}
	if old == nil && current != nil {
		old = &current.Status
	}
	next, ready := m.status(ctx, old, now)
	wait := m.cfg.Check
	if !ready {
		wait = min(wait, notReadyCheck)
	}
	if m.cfg.Client == nil {
		if ready {
			m.ready()
		}
		return wait
	}
	select {
	case <-m.registered:
	default:
		return wait // the registration kicks when it is done
	}
	if current == nil {
		return min(wait, statusRetry)
	}
	if first && !ready && isReady(current.Status.Conditions) && now.Sub(m.started) < lookTimeout {
		// The API shows a ready node: this process has merely not had the time to look at its runtime.
		return lookAgain
	}
	if !first && same(old, &next) && now.Sub(at) < m.cfg.Report {
		if ready {
			m.ready()
		}
		return wait
	}
	if err := m.report(ctx, current, &next); err != nil {
		if ctx.Err() == nil {
			m.log.Warn("Failed to report node status", logkey.Err, err)
		}
		return min(wait, statusRetry)
	}
	m.mu.Lock()
	before := m.reported
	m.reported, m.reportedAt = &next, now
	// Who spoke for this node while it was reporting is not heard of again.
	spokenFor := m.node != current && contradicts(m.node.Status.Conditions, next.Conditions)
	if spokenFor {
		m.reported = nil
	}
	m.mu.Unlock()
	if spokenFor {
		m.Kick()
	}
	m.tell(before, &next)
	if ready {
		m.ready()
	}
	return wait
}

func isReady(conditions []v1.NodeCondition) bool {
	for _, c := range conditions {
		if c.Type == v1.NodeReady {
			return c.Status == v1.ConditionTrue
		}
	}
	return false
}

func (m *Manager) ready() {
	m.mu.Lock()
	first := !m.readyOnce
	m.readyOnce = true
	m.mu.Unlock()
	if first {
		m.log.Info("Node is ready")
		if m.cfg.OnReady != nil {
			m.cfg.OnReady()
		}
	}
}

// tell records what changed of the conditions as Events, kubelet's reasons.
func (m *Manager) tell(before, now *v1.NodeStatus) {
	if m.cfg.Event == nil {
		return
	}
	for _, c := range now.Conditions {
		old := v1.ConditionStatus("")
		if before != nil {
			for _, o := range before.Conditions {
				if o.Type == c.Type {
					old = o.Status
				}
			}
		}
		if old == c.Status {
			continue
		}
		reason, kind := c.Reason, v1.EventTypeNormal
		switch {
		case c.Type == v1.NodeReady && c.Status == v1.ConditionTrue:
			reason = "NodeReady"
		case c.Type == v1.NodeReady:
			reason = "NodeNotReady"
		default:
			reason = strings.Replace(reason, "Kubelet", "Node", 1)
		}
		m.cfg.Event(kind, reason, fmt.Sprintf("Node %s status is now: %s", m.cfg.Name, reason))
	}
}

// same compares all but heartbeats.
func same(a, b *v1.NodeStatus) bool {
	x, y := a.DeepCopy(), b.DeepCopy()
	for _, s := range []*v1.NodeStatus{x, y} {
		for i := range s.Conditions {
			s.Conditions[i].LastHeartbeatTime = metav1.Time{}
		}
	}
	return equality.Semantic.DeepEqual(x, y)
}

func (m *Manager) report(ctx context.Context, current *v1.Node, next *v1.NodeStatus) error {
	ctx, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	want := current.DeepCopy()
	have := current.DeepCopy()
	m.mu.Lock()
	if m.reported != nil {
		have.Status = *m.reported
	}
	m.mu.Unlock()
	want.Status = *next
	if _, err := patchNode(ctx, m.cfg.Client, have, want, "status"); err != nil {
		return fmt.Errorf("patch status of node %q: %w", m.cfg.Name, err)
	}
	return nil
}

// patchNode sends the difference between two Node objects. Addresses replace each other as a whole: their merge key is
// the type, and a node may have two of one type.
func patchNode(ctx context.Context, client kubernetes.Interface, have, want *v1.Node, sub string) (*v1.Node, error) {
	a, err := json.Marshal(have)
	if err != nil {
		return nil, err
	}
	b, err := json.Marshal(want)
	if err != nil {
		return nil, err
	}
	patch, err := strategicpatch.CreateTwoWayMergePatch(a, b, v1.Node{})
	if err != nil {
		return nil, err
	}
	if !equality.Semantic.DeepEqual(have.Status.Addresses, want.Status.Addresses) {
		if patch, err = replaceAddresses(patch, want.Status.Addresses); err != nil {
			return nil, err
		}
	}
	var subs []string
	if sub != "" {
		subs = []string{sub}
	}
	return client.CoreV1().Nodes().Patch(ctx, want.Name, types.StrategicMergePatchType, patch, metav1.PatchOptions{}, subs...)
}

func replaceAddresses(patch []byte, addrs []v1.NodeAddress) ([]byte, error) {
	var p map[string]any
	if err := json.Unmarshal(patch, &p); err != nil {
		return nil, err
	}
	st, _ := p["status"].(map[string]any)
	if st == nil {
		st = map[string]any{}
		p["status"] = st
	}
	list := []any{}
	for _, a := range addrs {
		list = append(list, map[string]any{"type": a.Type, "address": a.Address})
	}
	list = append(list, map[string]any{"$patch": "replace"})
	st["addresses"] = list
	delete(st, "$setElementOrder/addresses")
	return json.Marshal(p)
}

// lease renews the node's Lease at a quarter of its length.
func (m *Manager) lease(ctx context.Context) {
	seconds := int32(m.cfg.LeaseDuration / time.Second)
	set := func(l *coordinationLease) error {
		if len(l.OwnerReferences) > 0 {
			return nil
		}
		name, uid := m.UID()
		if uid == "" {
			return fmt.Errorf("node %q is not registered yet", name)
		}
		l.OwnerReferences = []metav1.OwnerReference{{APIVersion: "v1", Kind: "Node", Name: name, UID: uid}}
		return nil
	}
	c := lease.NewController(clock.RealClock{}, m.cfg.Client, m.cfg.Name, seconds, nil, m.cfg.LeaseDuration/4, m.cfg.Name, leaseNamespace, set)
	c.Run(ctx)
}
