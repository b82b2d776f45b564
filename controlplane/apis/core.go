package apis

import (
	"strconv"

	corev1 "k8s.io/api/core/v1"
	eventsv1 "k8s.io/api/events/v1"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
)

func core(kind string) schema.GroupVersionKind { return corev1.SchemeGroupVersion.WithKind(kind) }

var coreKinds = []*Kind{
	{
		GroupVersionKind: core("Pod"), Resource: "pods", Singular: "pod", ShortNames: []string{"po"}, Categories: []string{"all"},
		New: func() runtime.Object { return &corev1.Pod{} }, NewList: func() runtime.Object { return &corev1.PodList{} },
		Status: true, Generation: OnSpec, Fields: podFields, Indexed: []string{"spec.nodeName"}, Cached: true,
	},
	{
		GroupVersionKind: core("PodTemplate"), Resource: "podtemplates", Singular: "podtemplate",
		New: func() runtime.Object { return &corev1.PodTemplate{} }, NewList: func() runtime.Object { return &corev1.PodTemplateList{} },
		Generation: OnSpec,
	},
	{
		GroupVersionKind: core("ReplicationController"), Resource: "replicationcontrollers", Singular: "replicationcontroller",
		ShortNames: []string{"rc"}, Categories: []string{"all"},
		New:     func() runtime.Object { return &corev1.ReplicationController{} },
		NewList: func() runtime.Object { return &corev1.ReplicationControllerList{} },
		Status:  true, Generation: OnSpec, Collection: OrphanDependents, Prefix: "controllers",
		Fields: func(o runtime.Object) fields.Set {
			return fields.Set{"status.replicas": strconv.Itoa(int(o.(*corev1.ReplicationController).Status.Replicas))}
		},
	},
	{
		GroupVersionKind: core("Service"), Resource: "services", Singular: "service", ShortNames: []string{"svc"}, Categories: []string{"all"},
		New: func() runtime.Object { return &corev1.Service{} }, NewList: func() runtime.Object { return &corev1.ServiceList{} },
		Status: true, CreateOnUpdate: true, Prefix: "services/specs", Cached: true,
		Fields: func(o runtime.Object) fields.Set {
			s := o.(*corev1.Service)
			return fields.Set{"spec.clusterIP": s.Spec.ClusterIP, "spec.type": string(s.Spec.Type)}
		},
	},
	{
		GroupVersionKind: core("Endpoints"), Resource: "endpoints", Singular: "endpoints", ShortNames: []string{"ep"},
		New: func() runtime.Object { return &corev1.Endpoints{} }, NewList: func() runtime.Object { return &corev1.EndpointsList{} },
		CreateOnUpdate: true, Prefix: "services/endpoints",
	},
	{
		GroupVersionKind: core("Node"), Resource: "nodes", Singular: "node", ShortNames: []string{"no"}, Cluster: true,
		New: func() runtime.Object { return &corev1.Node{} }, NewList: func() runtime.Object { return &corev1.NodeList{} },
		Status: true, Prefix: "minions", Cached: true,
		Fields: func(o runtime.Object) fields.Set {
			return fields.Set{"spec.unschedulable": strconv.FormatBool(o.(*corev1.Node).Spec.Unschedulable)}
		},
	},
	{
		GroupVersionKind: core("Namespace"), Resource: "namespaces", Singular: "namespace", ShortNames: []string{"ns"}, Cluster: true,
		New: func() runtime.Object { return &corev1.Namespace{} }, NewList: func() runtime.Object { return &corev1.NamespaceList{} },
		Status: true, Cached: true,
		Fields: func(o runtime.Object) fields.Set {
			n := o.(*corev1.Namespace)
			return fields.Set{"status.phase": string(n.Status.Phase), "name": n.Name}
		},
	},
	{
		GroupVersionKind: core("Event"), Resource: "events", Singular: "event", ShortNames: []string{"ev"},
		AlsoServedIn: []schema.GroupVersion{eventsv1.SchemeGroupVersion},
		New:          func() runtime.Object { return &corev1.Event{} }, NewList: func() runtime.Object { return &corev1.EventList{} },
		CreateOnUpdate: true, Collection: Uncollected, Fields: eventFields,
	},
	{
		GroupVersionKind: core("LimitRange"), Resource: "limitranges", Singular: "limitrange", ShortNames: []string{"limits"},
		New: func() runtime.Object { return &corev1.LimitRange{} }, NewList: func() runtime.Object { return &corev1.LimitRangeList{} },
		CreateOnUpdate: true,
	},
	{
		GroupVersionKind: core("ResourceQuota"), Resource: "resourcequotas", Singular: "resourcequota", ShortNames: []string{"quota"},
		New: func() runtime.Object { return &corev1.ResourceQuota{} }, NewList: func() runtime.Object { return &corev1.ResourceQuotaList{} },
		Status: true,
	},
	{
		GroupVersionKind: core("Secret"), Resource: "secrets", Singular: "secret",
		New: func() runtime.Object { return &corev1.Secret{} }, NewList: func() runtime.Object { return &corev1.SecretList{} },
		Cached: true,
		Fields: func(o runtime.Object) fields.Set { return fields.Set{"type": string(o.(*corev1.Secret).Type)} },
	},
	{
		GroupVersionKind: core("ServiceAccount"), Resource: "serviceaccounts", Singular: "serviceaccount", ShortNames: []string{"sa"},
		New: func() runtime.Object { return &corev1.ServiceAccount{} }, NewList: func() runtime.Object { return &corev1.ServiceAccountList{} },
	},
	{
		GroupVersionKind: core("PersistentVolume"), Resource: "persistentvolumes", Singular: "persistentvolume", ShortNames: []string{"pv"}, Cluster: true,
		New: func() runtime.Object { return &corev1.PersistentVolume{} }, NewList: func() runtime.Object { return &corev1.PersistentVolumeList{} },
		Status: true,
	},
	{
		GroupVersionKind: core("PersistentVolumeClaim"), Resource: "persistentvolumeclaims", Singular: "persistentvolumeclaim", ShortNames: []string{"pvc"},
		New:     func() runtime.Object { return &corev1.PersistentVolumeClaim{} },
		NewList: func() runtime.Object { return &corev1.PersistentVolumeClaimList{} },
		Status:  true,
	},
	{
		GroupVersionKind: core("ConfigMap"), Resource: "configmaps", Singular: "configmap", ShortNames: []string{"cm"},
		New: func() runtime.Object { return &corev1.ConfigMap{} }, NewList: func() runtime.Object { return &corev1.ConfigMapList{} },
		Cached: true,
	},
}

func podFields(o runtime.Object) fields.Set {
	p := o.(*corev1.Pod)
	podIP := ""
	if len(p.Status.PodIPs) > 0 {
		podIP = p.Status.PodIPs[0].IP
	}
	return fields.Set{
		"spec.nodeName":            p.Spec.NodeName,
		"spec.restartPolicy":       string(p.Spec.RestartPolicy),
		"spec.schedulerName":       p.Spec.SchedulerName,
		"spec.serviceAccountName":  p.Spec.ServiceAccountName,
		"spec.hostNetwork":         strconv.FormatBool(p.Spec.HostNetwork),
		"status.phase":             string(p.Status.Phase),
		"status.podIP":             podIP,
		"status.nominatedNodeName": p.Status.NominatedNodeName,
	}
}

func eventFields(o runtime.Object) fields.Set {
	e := o.(*corev1.Event)
	source := e.Source.Component
	if source == "" {
		source = e.ReportingController
	}
	return fields.Set{
		"involvedObject.kind":            e.InvolvedObject.Kind,
		"involvedObject.namespace":       e.InvolvedObject.Namespace,
		"involvedObject.name":            e.InvolvedObject.Name,
		"involvedObject.uid":             string(e.InvolvedObject.UID),
		"involvedObject.apiVersion":      e.InvolvedObject.APIVersion,
		"involvedObject.resourceVersion": e.InvolvedObject.ResourceVersion,
		"involvedObject.fieldPath":       e.InvolvedObject.FieldPath,
		"reason":                         e.Reason,
		"reportingComponent":             e.ReportingController,
		"source":                         source,
		"type":                           e.Type,
	}
}
