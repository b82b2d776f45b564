package state

import (
	"errors"

	v1 "k8s.io/api/core/v1"
	"k8s.io/kube-scheduler/framework"
)

// PodInfo is a pod with what scheduling derives from it once: affinity terms and requests.
type PodInfo struct {
	Pod                        *v1.Pod
	RequiredAffinityTerms      []framework.AffinityTerm
	RequiredAntiAffinityTerms  []framework.AffinityTerm
	PreferredAffinityTerms     []framework.WeightedAffinityTerm
	PreferredAntiAffinityTerms []framework.WeightedAffinityTerm
	res                        framework.PodResource
}

var _ framework.PodInfo = (*PodInfo)(nil)

// NewPodInfo derives the terms. The error names what could not be parsed; the PodInfo is usable even then, without the
// broken terms.
func NewPodInfo(pod *v1.Pod) (*PodInfo, error) {
	pi := &PodInfo{Pod: pod, res: calculate(pod)}
	a := pod.Spec.Affinity
	if a == nil {
		return pi, nil
	}
	var errs [4]error
	if pa := a.PodAffinity; pa != nil {
		pi.RequiredAffinityTerms, errs[0] = framework.GetAffinityTerms(pod, framework.GetPodAffinityTerms(a))
		pi.PreferredAffinityTerms, errs[1] = framework.GetWeightedAffinityTerms(pod, pa.PreferredDuringSchedulingIgnoredDuringExecution)
	}
	if pa := a.PodAntiAffinity; pa != nil {
		pi.RequiredAntiAffinityTerms, errs[2] = framework.GetAffinityTerms(pod, framework.GetPodAntiAffinityTerms(a))
		pi.PreferredAntiAffinityTerms, errs[3] = framework.GetWeightedAffinityTerms(pod, pa.PreferredDuringSchedulingIgnoredDuringExecution)
	}
	return pi, errors.Join(errs[:]...)
}

func (pi *PodInfo) GetPod() *v1.Pod { return pi.Pod }
func (pi *PodInfo) GetRequiredAffinityTerms() []framework.AffinityTerm {
	return pi.RequiredAffinityTerms
}
func (pi *PodInfo) GetRequiredAntiAffinityTerms() []framework.AffinityTerm {
	return pi.RequiredAntiAffinityTerms
}
func (pi *PodInfo) GetPreferredAffinityTerms() []framework.WeightedAffinityTerm {
	return pi.PreferredAffinityTerms
}
func (pi *PodInfo) GetPreferredAntiAffinityTerms() []framework.WeightedAffinityTerm {
	return pi.PreferredAntiAffinityTerms
}

// CalculateResource returns the requests as of NewPodInfo.
func (pi *PodInfo) CalculateResource() framework.PodResource { return pi.res }
