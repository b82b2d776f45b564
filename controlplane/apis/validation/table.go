package validation

import (
	"sync"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	apivalidation "k8s.io/apimachinery/pkg/api/validation"
)

var kinds = sync.OnceValue(func() table {
	t := table{}
	registerCore(t)
	registerApps(t)
	return t
})

func registerCore(t table) {
	subdomain := apivalidation.NameIsDNSSubdomain
	register(t, kind[*corev1.ConfigMap]{name: subdomain})
}

func registerApps(t table) {
	register(t, kind[*appsv1.ReplicaSet]{name: apivalidation.NameIsDNSSubdomain})
}
