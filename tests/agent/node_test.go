package agent

import (
	"errors"
	"fmt"
	"os"
	"runtime"
	"strings"
	"testing"
	"time"

	v1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/reevehq/reeve/tests/node"
)

// TestNodeObject holds what the node says of itself against the machine.
func TestNodeObject(t *testing.T) {
	s := open(t)
	n, err := s.client.CoreV1().Nodes().Get(s.ctx(), "node-a", metav1.GetOptions{})
	if err != nil {
		t.Fatal(err)
	}
	kernel, err := os.ReadFile("/proc/sys/kernel/osrelease")
	if err != nil {
		t.Fatal(err)
	}
	boot, err := os.ReadFile("/proc/sys/kernel/random/boot_id")
	if err != nil {
		t.Fatal(err)
	}
	i := n.Status.NodeInfo
	for _, err := range []error{
		is("label hostname", n.Labels[v1.LabelHostname], "node-a"), is("label os", n.Labels[v1.LabelOSStable], "linux"), is("label arch", n.Labels[v1.LabelArchStable], runtime.GOARCH),
		is("kernelVersion", i.KernelVersion, strings.TrimSpace(string(kernel))), is("bootID", i.BootID, strings.TrimSpace(string(boot))),
		is("operatingSystem", i.OperatingSystem, "linux"), is("architecture", i.Architecture, runtime.GOARCH),
		is("runtime", strings.HasPrefix(i.ContainerRuntimeVersion, "containerd://"), true), is("kubeletVersion", strings.HasPrefix(i.KubeletVersion, "v1.36."), true),
		is("osImage", i.OSImage != "" && i.OSImage != "Linux", true), is("port", n.Status.DaemonEndpoints.KubeletEndpoint.Port, 10250),
		is("cpus", n.Status.Capacity.Cpu().Value(), int64(runtime.NumCPU())), is("pods", n.Status.Allocatable.Pods().Value(), 110),
		is("addresses", fmt.Sprint(n.Status.Addresses), fmt.Sprintf("[{InternalIP %s} {Hostname node-a}]", node.IP)),
	} {
		if err != nil {
			t.Error(err)
		}
	}
	if st := n.Status.Capacity[v1.ResourceEphemeralStorage]; st.Value() == 0 {
		t.Error("no ephemeral-storage")
	}
	handlers := map[string]*v1.NodeRuntimeHandlerFeatures{}
	for _, h := range n.Status.RuntimeHandlers {
		handlers[h.Name] = h.Features
	}
	for _, name := range []string{"", "runc"} { // "" is the default
		f := handlers[name]
		if f == nil || f.RecursiveReadOnlyMounts == nil || !*f.RecursiveReadOnlyMounts {
			t.Errorf("runtime handler %q: %+v, want recursive read-only mounts", name, f)
		}
	}
	if f := n.Status.Features; f == nil || f.SupplementalGroupsPolicy == nil || !*f.SupplementalGroupsPolicy {
		t.Errorf("features are %+v, want supplementalGroupsPolicy", f)
	}
	busybox := false
	for _, img := range n.Status.Images {
		busybox = busybox || strings.Contains(strings.Join(img.Names, " "), node.BusyboxImage) && img.SizeBytes > 0
	}
	if !busybox {
		t.Errorf("images are %v, and lack %s", n.Status.Images, node.BusyboxImage)
	}
	s.eventually("the conditions", func() error { // TestNodeKeepsItsOwn overwrites one of them, for a moment
		n, err := s.client.CoreV1().Nodes().Get(s.ctx(), "node-a", metav1.GetOptions{})
		if err != nil {
			return err
		}
		want := map[v1.NodeConditionType]v1.ConditionStatus{v1.NodeReady: v1.ConditionTrue, v1.NodeMemoryPressure: v1.ConditionFalse, v1.NodeDiskPressure: v1.ConditionFalse, v1.NodePIDPressure: v1.ConditionFalse}
		for _, c := range n.Status.Conditions {
			if st, ok := want[c.Type]; ok && (c.Status != st || c.Reason == "" || c.LastHeartbeatTime.IsZero() || c.LastTransitionTime.IsZero()) {
				return fmt.Errorf("condition %+v, want %s", c, st)
			}
			delete(want, c.Type)
		}
		if len(want) > 0 {
			return fmt.Errorf("conditions lack %v", want)
		}
		return nil
	})
}

// TestNodeLease watches the lease of 40 s being renewed, long before it ends, with no status written for it.
func TestNodeLease(t *testing.T) {
	s := open(t)
	get := func() (*time.Time, error) {
		l, err := s.client.CoordinationV1().Leases(v1.NamespaceNodeLease).Get(s.ctx(), "node-a", metav1.GetOptions{})
		if err != nil {
			return nil, err
		}
		err = errors.Join(is("leaseDurationSeconds", *l.Spec.LeaseDurationSeconds, 40), is("holder", *l.Spec.HolderIdentity, "node-a"),
			is("owners", len(l.OwnerReferences) == 1 && l.OwnerReferences[0].Kind == "Node", true))
		return &l.Spec.RenewTime.Time, err
	}
	first, err := get()
	if err != nil {
		t.Fatal(err)
	}
	s.eventually("the lease to be renewed", func() error {
		now, err := get()
		if err != nil {
			return err
		}
		return is("renewed", now.After(*first), true)
	})
}

// overwritten is the reason of a condition that TestNodeKeepsItsOwn writes under the other tests, for a moment.
const overwritten = "Overwritten"

// TestNodeKeepsItsOwn changes what belongs to the node and what does not: the first comes back, the second stays.
func TestNodeKeepsItsOwn(t *testing.T) {
	s := open(t)
	s.Kubectl("label", "node", "node-a", "team=blue")
	if out, err := s.TryKubectl("", "patch", "node", "node-a", "--subresource=status", "--type=merge", "-p", `{"status":{"capacity":{"example.com/widget":"3"}}}`); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	s.Kubectl("patch", "node", "node-a", "--subresource=status", "--type=strategic", "-p", `{"status":{"conditions":[{"type":"Ready","status":"Unknown","reason":"`+overwritten+`"}]}}`)
	s.eventually("the node to say that it is ready", func() error {
		n, err := s.client.CoreV1().Nodes().Get(s.ctx(), "node-a", metav1.GetOptions{})
		if err != nil {
			return err
		}
		for _, c := range n.Status.Conditions {
			if c.Type == v1.NodeReady && c.Status != v1.ConditionTrue {
				return fmt.Errorf("it is %s", c.Status)
			}
		}
		return errors.Join(is("label", n.Labels["team"], "blue"))
	})
	n, err := s.client.CoreV1().Nodes().Get(s.ctx(), "node-a", metav1.GetOptions{})
	if err != nil {
		t.Fatal(err)
	}
	// Extended resources that an operator put there are his (Kubernetes documents this way of advertising them).
	if q := n.Status.Capacity["example.com/widget"]; q.Value() != 3 {
		t.Errorf("the operator's extended resource is gone: capacity is %v", n.Status.Capacity)
	}
}
