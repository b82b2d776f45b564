package cni

import (
	"fmt"

	"github.com/vishvananda/netlink"
	"k8s.io/apimachinery/pkg/api/resource"
)

// Annotations that ask for bandwidth limits, in bits per second; upstream's, as are the bounds.
const (
	ingressBandwidth = "kubernetes.io/ingress-bandwidth"
	egressBandwidth  = "kubernetes.io/egress-bandwidth"
	minBandwidth     = 1_000
	maxBandwidth     = 1_000_000_000_000_000
)

// bandwidth is a pod's limits in bits per second; 0 is none. Ingress is what the pod receives.
type bandwidth struct {
	Ingress int64 `json:"ingress,omitempty"`
	Egress  int64 `json:"egress,omitempty"`
}

func bandwidthOf(annotations map[string]string) (b bandwidth, err error) {
	for key, to := range map[string]*int64{ingressBandwidth: &b.Ingress, egressBandwidth: &b.Egress} {
		value, ok := annotations[key]
		if !ok {
			continue
		}
		q, err := resource.ParseQuantity(value)
		if err != nil || q.Value() < minBandwidth || q.Value() > maxBandwidth {
			return bandwidth{}, fmt.Errorf("annotation %s: %q is no quantity of bits per second between 1k and 1P", key, value)
		}
		*to = q.Value()
	}
	return b, nil
}

const (
	// minBucket is what may pass at once: a segmentation offload's largest packet.
	minBucket = 64 << 10
	// bucketPart of a second's bytes may pass at once where that is more: the timer's granularity must not be the limit.
	bucketPart = 50
	// queuePart of a second's bytes wait before packets are dropped.
	queuePart = 20
)

// shape limits what leaves through link to bits per second.
func shape(h *netlink.Handle, link netlink.Link, bits int64) error {
	if bits == 0 {
		return nil
	}
	rate := uint64(bits) / 8
	bucket := max(minBucket, min(rate/bucketPart, 1<<30))
	tbf := &netlink.Tbf{
		QdiscAttrs: netlink.QdiscAttrs{LinkIndex: link.Attrs().Index, Handle: netlink.MakeHandle(1, 0), Parent: netlink.HANDLE_ROOT},
		Rate:       rate, Limit: uint32(min(rate/queuePart, 1<<30) + bucket), Buffer: netlink.Xmittime(rate, uint32(bucket)),
	}
	if err := h.QdiscReplace(tbf); err != nil {
		return fmt.Errorf("limit %s to %d bits per second (does the kernel have the tbf queueing discipline?): %w", link.Attrs().Name, bits, err)
	}
	return nil
}
