package tainteviction

import (
	"time"

	v1 "k8s.io/api/core/v1"
)

// patience is how long a pod may stay on a node with the NoExecute taints. forever: it tolerates all of them without limit.
func patience(tolerations []v1.Toleration, taints []v1.Taint) (left time.Duration, forever bool) {
	forever = true
	for i := range taints {
		if taints[i].Effect != v1.TaintEffectNoExecute {
			continue
		}
		tolerated := false
		for _, t := range tolerations {
			if !tolerates(&t, &taints[i]) {
				continue
			}
			tolerated = true
			if t.TolerationSeconds == nil {
				continue
			}
			d := max(time.Duration(*t.TolerationSeconds)*time.Second, 0)
			if forever || d < left {
				left, forever = d, false
			}
		}
		if !tolerated {
			return 0, false
		}
	}
	return left, forever
}

func tolerates(t *v1.Toleration, taint *v1.Taint) bool {
	if t.Effect != "" && t.Effect != taint.Effect || t.Key != "" && t.Key != taint.Key {
		return false
	}
	switch t.Operator {
	case v1.TolerationOpExists:
		return true
	case "", v1.TolerationOpEqual:
		return t.Value == taint.Value && t.Key != ""
	}
	return false
}

func noExecute(taints []v1.Taint) (out []v1.Taint) {
	for _, t := range taints {
		if t.Effect == v1.TaintEffectNoExecute {
			out = append(out, t)
		}
	}
	return out
}
