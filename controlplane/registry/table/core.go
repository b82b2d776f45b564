package table

import (
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/duration"
)

func serviceCells(s *corev1.Service, now time.Time) []any {
	internal := none
	if len(s.Spec.ClusterIPs) > 0 {
		internal = s.Spec.ClusterIPs[0]
	} else if s.Spec.ClusterIP != "" {
		internal = s.Spec.ClusterIP
	}
	var ports []string
	for _, p := range s.Spec.Ports {
		text := fmt.Sprintf("%d/%s", p.Port, p.Protocol)
		if p.NodePort != 0 {
			text = fmt.Sprintf("%d:%d/%s", p.Port, p.NodePort, p.Protocol)
		}
		ports = append(ports, text)
	}
	return []any{string(s.Spec.Type), internal, externalOf(s), joined(ports, none), age(s.CreationTimestamp, now), labelsOf(s.Spec.Selector)}
}

func externalOf(s *corev1.Service) string {
	switch s.Spec.Type {
	case corev1.ServiceTypeExternalName:
		return s.Spec.ExternalName
	case corev1.ServiceTypeLoadBalancer:
		var all []string
		for _, i := range s.Status.LoadBalancer.Ingress {
			if i.IP != "" {
				all = append(all, i.IP)
			} else if i.Hostname != "" {
				all = append(all, i.Hostname)
			}
		}
		all = append(all, s.Spec.ExternalIPs...)
		return joined(all, "<pending>")
	}
	return joined(s.Spec.ExternalIPs, none)
}

// shownEndpoints is how many addresses are spelled out before "+ n more...".
const shownEndpoints = 3

func some(all []string) string {
	if len(all) == 0 {
		return none
	}
	if len(all) > shownEndpoints {
		return fmt.Sprintf("%s + %d more...", strings.Join(all[:shownEndpoints], ","), len(all)-shownEndpoints)
	}
	return strings.Join(all, ",")
}

func endpointsCells(e *corev1.Endpoints, now time.Time) []any {
	var all []string
	for _, s := range e.Subsets {
		if len(s.Ports) == 0 {
			for _, a := range s.Addresses {
				all = append(all, a.IP)
			}
		}
		for _, p := range s.Ports {
			for _, a := range s.Addresses {
				host := a.IP
				if strings.Contains(host, ":") {
					host = "[" + host + "]"
				}
				all = append(all, fmt.Sprintf("%s:%d", host, p.Port))
			}
		}
	}
	return []any{some(all), age(e.CreationTimestamp, now)}
}

func endpointSliceCells(e *discoveryv1.EndpointSlice, now time.Time) []any {
	var ports, addresses []string
	for _, p := range e.Ports {
		if p.Port == nil {
			ports = append(ports, "*")
			continue
		}
		ports = append(ports, strconv.Itoa(int(*p.Port)))
	}
	for _, endpoint := range e.Endpoints {
		addresses = append(addresses, endpoint.Addresses...)
	}
	portText := unset
	if len(ports) > 0 {
		portText = some(ports)
	}
	addressText := unset
	if len(addresses) > 0 {
		addressText = some(addresses)
	}
	return []any{string(e.AddressType), portText, addressText, age(e.CreationTimestamp, now)}
}

func nodeCells(n *corev1.Node, now time.Time) []any {
	status := "Unknown"
	for _, c := range n.Status.Conditions {
		if c.Type == corev1.NodeReady {
			if c.Status == corev1.ConditionTrue {
				status = "Ready"
			} else {
				status = "NotReady"
			}
		}
	}
	if n.Spec.Unschedulable {
		status += ",SchedulingDisabled"
	}
	internal, external := none, none
	for _, a := range n.Status.Addresses {
		switch {
		case a.Type == corev1.NodeInternalIP && internal == none:
			internal = a.Address
		case a.Type == corev1.NodeExternalIP && external == none:
			external = a.Address
		}
	}
	info := n.Status.NodeInfo
	return []any{
		status, rolesOf(n), age(n.CreationTimestamp, now), info.KubeletVersion, internal, external,
		or(info.OSImage, unknown), or(info.KernelVersion, unknown), or(info.ContainerRuntimeVersion, unknown),
	}
}

func rolesOf(n *corev1.Node) string {
	const prefix, legacy = "node-role.kubernetes.io/", "kubernetes.io/role"
	var roles []string
	for k, v := range n.Labels {
		if role, ok := strings.CutPrefix(k, prefix); ok && role != "" {
			roles = append(roles, role)
		} else if k == legacy && v != "" {
			roles = append(roles, v)
		}
	}
	slices.Sort(roles)
	return joined(slices.Compact(roles), none)
}

func namespaceCells(n *corev1.Namespace, now time.Time) []any {
	return []any{string(n.Status.Phase), age(n.CreationTimestamp, now)}
}

func secretCells(s *corev1.Secret, now time.Time) []any {
	return []any{string(s.Type), int64(len(s.Data)), age(s.CreationTimestamp, now)}
}

func configMapCells(c *corev1.ConfigMap, now time.Time) []any {
	return []any{int64(len(c.Data) + len(c.BinaryData)), age(c.CreationTimestamp, now)}
}

func serviceAccountCells(s *corev1.ServiceAccount, now time.Time) []any {
	return []any{int64(len(s.Secrets)), age(s.CreationTimestamp, now)}
}

func eventCells(e *corev1.Event, now time.Time) []any {
	first := age(e.FirstTimestamp, now)
	if e.FirstTimestamp.IsZero() {
		first = microAge(e.EventTime, now)
	}
	last := first
	switch {
	case e.Series != nil:
		last = microAge(e.Series.LastObservedTime, now)
	case !e.LastTimestamp.IsZero():
		last = age(e.LastTimestamp, now)
	}
	count := int64(e.Count)
	if e.Series != nil {
		count = int64(e.Series.Count)
	} else if count == 0 {
		count = 1
	}
	object := strings.ToLower(e.InvolvedObject.Kind)
	if e.InvolvedObject.Name != "" {
		object += "/" + e.InvolvedObject.Name
	}
	source := e.Source.Component
	if source == "" {
		source = e.ReportingController
	}
	if e.Source.Host != "" {
		source += ", " + e.Source.Host
	} else if e.ReportingInstance != "" {
		source += ", " + e.ReportingInstance
	}
	return []any{last, e.Type, e.Reason, object, e.InvolvedObject.FieldPath, source, strings.TrimSpace(e.Message), first, count, e.Name}
}

func microAge(t metav1.MicroTime, now time.Time) string {
	if t.IsZero() {
		return unknown
	}
	return duration.HumanDuration(now.Sub(t.Time))
}

// accessModes in kubectl's abbreviations, in a fixed order.
func accessModes(modes []corev1.PersistentVolumeAccessMode) string {
	var out []string
	for _, m := range []struct {
		mode corev1.PersistentVolumeAccessMode
		text string
	}{
		{corev1.ReadWriteOnce, "RWO"}, {corev1.ReadOnlyMany, "ROX"}, {corev1.ReadWriteMany, "RWX"}, {corev1.ReadWriteOncePod, "RWOP"},
	} {
		if slices.Contains(modes, m.mode) {
			out = append(out, m.text)
		}
	}
	return strings.Join(out, ",")
}

func persistentVolumeCells(v *corev1.PersistentVolume, now time.Time) []any {
	claim := ""
	if r := v.Spec.ClaimRef; r != nil {
		claim = r.Namespace + "/" + r.Name
	}
	phase := string(v.Status.Phase)
	if v.DeletionTimestamp != nil {
		phase = "Terminating"
	}
	capacity := v.Spec.Capacity[corev1.ResourceStorage]
	return []any{
		capacity.String(), accessModes(v.Spec.AccessModes), string(v.Spec.PersistentVolumeReclaimPolicy), phase, claim,
		v.Spec.StorageClassName, orUnset(v.Spec.VolumeAttributesClassName), v.Status.Reason, age(v.CreationTimestamp, now),
		orUnset(v.Spec.VolumeMode),
	}
}

func persistentVolumeClaimCells(c *corev1.PersistentVolumeClaim, now time.Time) []any {
	phase := string(c.Status.Phase)
	if c.DeletionTimestamp != nil {
		phase = "Terminating"
	}
	capacity, modes := "", ""
	if c.Spec.VolumeName != "" {
		q := c.Status.Capacity[corev1.ResourceStorage]
		capacity, modes = q.String(), accessModes(c.Status.AccessModes)
	}
	return []any{
		phase, c.Spec.VolumeName, capacity, modes, deref(c.Spec.StorageClassName), orUnset(c.Spec.VolumeAttributesClassName),
		age(c.CreationTimestamp, now), orUnset(c.Spec.VolumeMode),
	}
}

func resourceQuotaCells(q *corev1.ResourceQuota, now time.Time) []any {
	var requests, limits []string
	for name, hard := range q.Status.Hard {
		used := q.Status.Used[name]
		text := fmt.Sprintf("%s: %s/%s", name, used.String(), hard.String())
		if strings.HasPrefix(string(name), "limits") {
			limits = append(limits, text)
		} else {
			requests = append(requests, text)
		}
	}
	slices.Sort(requests)
	slices.Sort(limits)
	return []any{strings.Join(requests, ", "), strings.Join(limits, ", "), age(q.CreationTimestamp, now)}
}
