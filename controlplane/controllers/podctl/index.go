package podctl

import (
	v1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/tools/cache"
)

const byOwner = "reeve.controllerUID"

// Index has the informer find pods by their controller. Safe to repeat.
func Index(informer cache.SharedIndexInformer) error {
	if _, ok := informer.GetIndexer().GetIndexers()[byOwner]; ok {
		return nil
	}
	err := informer.AddIndexers(cache.Indexers{byOwner: func(obj any) ([]string, error) {
		o, ok := obj.(metav1.Object)
		if !ok {
			return nil, nil
		}
		if ref := metav1.GetControllerOfNoCopy(o); ref != nil {
			return []string{string(ref.UID)}, nil
		}
		return []string{orphans(o.GetNamespace())}, nil
	}})
	if _, ok := informer.GetIndexer().GetIndexers()[byOwner]; ok {
		return nil // another controller was faster
	}
	return err
}

func orphans(namespace string) string { return "orphans/" + namespace }

// Owned lists pods whose controller has the UID.
func Owned(indexer cache.Indexer, uid types.UID) []*v1.Pod { return by(indexer, string(uid)) }

// OwnedAndOrphans lists pods whose controller has the UID, and those of the namespace that have none and could be adopted.
func OwnedAndOrphans(indexer cache.Indexer, namespace string, uid types.UID) []*v1.Pod {
	return append(by(indexer, string(uid)), by(indexer, orphans(namespace))...)
}

func by(indexer cache.Indexer, value string) []*v1.Pod {
	objs, err := indexer.ByIndex(byOwner, value)
	if err != nil {
		return nil
	}
	pods := make([]*v1.Pod, 0, len(objs))
	for _, o := range objs {
		if p, ok := o.(*v1.Pod); ok {
			pods = append(pods, p)
		}
	}
	return pods
}
