package dropin

import (
	"context"
	"errors"
	"fmt"
	"os"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"

	v1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/reevehq/reeve/internal/testenv"
	"github.com/reevehq/reeve/tests/node"
)

func (b *bed) node(t *testing.T) *v1.Node {
	t.Helper()
	n, err := b.client.CoreV1().Nodes().Get(t.Context(), "node-b", metav1.GetOptions{})
	if err != nil {
		t.Fatal(err)
	}
	return n
}

func condition(n *v1.Node, kind v1.NodeConditionType) v1.NodeCondition {
	for _, c := range n.Status.Conditions {
		if c.Type == kind {
			return c
		}
	}
	return v1.NodeCondition{}
}

// nodeObject looks at what the node tells of itself.
func (b *bed) nodeObject(t *testing.T) {
	n := b.node(t)
	for label, want := range map[string]string{v1.LabelHostname: "node-b", v1.LabelOSStable: "linux", v1.LabelArchStable: runtime.GOARCH, "example.org/zone": "a"} {
		if n.Labels[label] != want {
			t.Errorf("label %s is %q, want %q", label, n.Labels[label], want)
		}
	}
	if !slices.ContainsFunc(n.Spec.Taints, func(x v1.Taint) bool {
		return x.Key == "example.org/dedicated" && x.Value == "yes" && x.Effect == v1.TaintEffectNoSchedule
	}) {
		t.Errorf("taints %v lack the configuration's", n.Spec.Taints)
	}
	want := []v1.NodeAddress{{Type: v1.NodeInternalIP, Address: node.IP}, {Type: v1.NodeHostName, Address: "node-b"}}
	if !slices.Equal(n.Status.Addresses, want) {
		t.Errorf("addresses %v, want %v", n.Status.Addresses, want)
	}
	c, a := n.Status.Capacity, n.Status.Allocatable
	if int(c.Cpu().Value()) != runtime.NumCPU() || c.Memory().Value() == 0 || c.StorageEphemeral().Value() == 0 || c.Pods().Value() != 50 {
		t.Errorf("capacity %v", c)
	}
	// 500m of CPU are reserved by the configuration; 100Mi of memory are the hard eviction threshold's.
	if got := c.Cpu().MilliValue() - a.Cpu().MilliValue(); got != 500 {
		t.Errorf("%dm of CPU are kept from pods, want 500m", got)
	}
	if got := c.Memory().Value() - a.Memory().Value(); got != 100<<20 {
		t.Errorf("%d bytes of memory are kept from pods, want 100Mi", got)
	}
	info := n.Status.NodeInfo
	if !strings.HasPrefix(info.KubeletVersion, "v1.36.") || !strings.HasPrefix(info.ContainerRuntimeVersion, "containerd://") || info.KernelVersion == "" ||
		info.BootID == "" || info.OSImage == "" || info.OperatingSystem != "linux" || info.Architecture != runtime.GOARCH {
		t.Errorf("node info %+v", info)
	}
	if n.Status.DaemonEndpoints.KubeletEndpoint.Port != 10250 {
		t.Errorf("daemon endpoints %+v", n.Status.DaemonEndpoints)
	}
	if !slices.ContainsFunc(n.Status.Images, func(i v1.ContainerImage) bool { return slices.Contains(i.Names, testenv.BusyboxRef) && i.SizeBytes > 0 }) {
		t.Errorf("images %v lack %s", n.Status.Images, testenv.BusyboxRef)
	}
	if !slices.ContainsFunc(n.Status.RuntimeHandlers, func(h v1.NodeRuntimeHandler) bool { return h.Name == "" || h.Name == "runc" }) {
		t.Errorf("runtime handlers %v", n.Status.RuntimeHandlers)
	}
	for kind, reason := range map[v1.NodeConditionType]string{
		v1.NodeMemoryPressure: "KubeletHasSufficientMemory", v1.NodeDiskPressure: "KubeletHasNoDiskPressure", v1.NodePIDPressure: "KubeletHasSufficientPID",
	} {
		if got := condition(n, kind); got.Status != v1.ConditionFalse || got.Reason != reason {
			t.Errorf("condition %+v, want False because of %s", got, reason)
		}
	}
	if got := condition(n, v1.NodeReady); got.Reason != "KubeletReady" {
		t.Errorf("condition %+v, want the reason KubeletReady", got)
	}
}

// lease is renewed by the node, for the length that the configuration says.
func (b *bed) lease(t *testing.T) {
	get := func() (*metav1.MicroTime, error) {
		l, err := b.client.CoordinationV1().Leases("kube-node-lease").Get(context.Background(), "node-b", metav1.GetOptions{})
		if err != nil {
			return nil, err
		}
		if *l.Spec.HolderIdentity != "node-b" || *l.Spec.LeaseDurationSeconds != 8 || len(l.OwnerReferences) != 1 || l.OwnerReferences[0].Kind != "Node" {
			t.Errorf("lease %+v, owners %v", l.Spec, l.OwnerReferences)
		}
		return l.Spec.RenewTime, nil
	}
	first, err := get()
	if err != nil {
		t.Fatal(err)
	}
	node.Eventually(t, "the lease is renewed", func() error {
		now, err := get()
		if err == nil && !now.After(first.Time) {
			err = errors.New("not yet")
		}
		return err
	})
}

// networkGone takes the conflist away and puts it back: the node says so, and pods run on.
func (b *bed) networkGone(t *testing.T) {
	if err := os.Rename(b.path("net.d"), b.path("net.gone")); err != nil {
		t.Fatal(err)
	}
	node.Eventually(t, "the node is not Ready without a network", func() error {
		if c := condition(b.node(t), v1.NodeReady); c.Status == v1.ConditionTrue || !strings.Contains(strings.ToLower(c.Message), "network") {
			return fmt.Errorf("condition %+v", c)
		}
		return nil
	})
	if err := os.Rename(b.path("net.gone"), b.path("net.d")); err != nil {
		t.Fatal(err)
	}
	node.Eventually(t, "the node is Ready again", b.ready)
}

// runtimeStalls stops containerd as it is, and lets it go on: the node says so, and pods run on.
func (b *bed) runtimeStalls(t *testing.T, pod *v1.Pod) {
	raw, err := os.ReadFile(b.path("data", "containerd", "containerd.pid"))
	if err != nil {
		t.Fatal(err)
	}
	pid, err := strconv.Atoi(strings.TrimSpace(string(raw)))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = syscall.Kill(pid, syscall.SIGCONT) })
	if err := syscall.Kill(pid, syscall.SIGSTOP); err != nil {
		t.Fatal(err)
	}
	node.Eventually(t, "the node is not Ready without its runtime", func() error {
		if c := condition(b.node(t), v1.NodeReady); c.Status == v1.ConditionTrue || !strings.Contains(c.Message, "container runtime") {
			return fmt.Errorf("condition %+v", c)
		}
		return nil
	})
	if err := syscall.Kill(pid, syscall.SIGCONT); err != nil {
		t.Fatal(err)
	}
	node.Eventually(t, "the node is Ready again", b.ready)
	var after *v1.Pod
	node.Eventually(t, "its pod is Ready", func() (err error) { after, err = b.running(pod.Namespace, pod.Name); return err })
	was, is := pod.Status.ContainerStatuses[0], after.Status.ContainerStatuses[0]
	if is.ContainerID != was.ContainerID || is.RestartCount != was.RestartCount {
		t.Errorf("the pod did not run on: %s restarted %d times, then %s restarted %d times", was.ContainerID, was.RestartCount, is.ContainerID, is.RestartCount)
	}
}

// deleted has the Node object deleted by an administrator: the node registers again, its pod runs on.
func (b *bed) deleted(t *testing.T, pod *v1.Pod) {
	before := b.node(t)
	if err := b.client.CoreV1().Nodes().Delete(t.Context(), "node-b", metav1.DeleteOptions{}); err != nil {
		t.Fatal(err)
	}
	node.Eventually(t, "the node registers again", func() error {
		if err := b.ready(); err != nil {
			return err
		}
		if n := b.node(t); n.UID == before.UID || n.Labels["example.org/zone"] != "a" {
			return fmt.Errorf("node %s, labels %v", n.UID, n.Labels)
		}
		return nil
	})
	var after *v1.Pod
	node.Eventually(t, "its pod is Ready", func() (err error) { after, err = b.running(pod.Namespace, pod.Name); return err })
	if after.UID != pod.UID || after.Status.ContainerStatuses[0].ContainerID != pod.Status.ContainerStatuses[0].ContainerID {
		t.Errorf("the pod did not run on: %s", after.Status.ContainerStatuses[0].ContainerID)
	}
}
