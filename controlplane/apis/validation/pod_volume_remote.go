package validation

import (
	"path"
	"strconv"
	"strings"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/util/validation"
	"k8s.io/apimachinery/pkg/util/validation/field"
)

// maxCSIDriverName bounds a driver's name, which becomes the name of a socket's folder.
const maxCSIDriverName = 63

func csiDriverName(r *report, p *field.Path, name string) {
	switch {
	case name == "":
		r.required(p, "")
		return
	case len(name) > maxCSIDriverName:
		r.add(field.TooLong(p, name, maxCSIDriverName))
	}
	dnsSubdomain(r, p, strings.ToLower(name))
}

func csiVolume(r *report, p *field.Path, c *corev1.CSIVolumeSource) {
	csiDriverName(r, p.Child("driver"), c.Driver)
	if c.NodePublishSecretRef != nil && c.NodePublishSecretRef.Name == "" {
		r.required(p.Child("nodePublishSecretRef", "name"), "")
	}
}

// remoteVolume checks the sources that volumes in pods and persistent volumes share.
func remoteVolume(r *report, p *field.Path, v *corev1.VolumeSource) {
	need := func(name, value string) {
		if value == "" {
			r.required(p.Child(name), "")
		}
	}
	needOne := func(name string, list []string) {
		if len(list) == 0 {
			r.required(p.Child(name), "")
		}
	}
	switch {
	case v.NFS != nil:
		need("server", v.NFS.Server)
		need("path", v.NFS.Path)
		if v.NFS.Path != "" && !path.IsAbs(v.NFS.Path) {
			r.invalid(p.Child("path"), v.NFS.Path, "must be an absolute path")
		}
	case v.ISCSI != nil:
		s := v.ISCSI
		iscsi(r, p, s.TargetPortal, s.IQN, s.Lun, s.DiscoveryCHAPAuth || s.SessionCHAPAuth, s.SecretRef != nil, s.InitiatorName)
	case v.FC != nil:
		fc(r, p, v.FC)
	case v.GCEPersistentDisk != nil:
		need("pdName", v.GCEPersistentDisk.PDName)
		partition(r, p.Child("partition"), v.GCEPersistentDisk.Partition)
	case v.AWSElasticBlockStore != nil:
		need("volumeID", v.AWSElasticBlockStore.VolumeID)
		partition(r, p.Child("partition"), v.AWSElasticBlockStore.Partition)
	case v.GitRepo != nil:
		need("repository", v.GitRepo.Repository)
		relativePath(r, p.Child("directory"), v.GitRepo.Directory)
	case v.Glusterfs != nil:
		need("endpoints", v.Glusterfs.EndpointsName)
		need("path", v.Glusterfs.Path)
	case v.RBD != nil:
		needOne("monitors", v.RBD.CephMonitors)
		need("image", v.RBD.RBDImage)
	case v.CephFS != nil:
		needOne("monitors", v.CephFS.Monitors)
	case v.Cinder != nil:
		need("volumeID", v.Cinder.VolumeID)
		if v.Cinder.SecretRef != nil && v.Cinder.SecretRef.Name == "" {
			r.required(p.Child("secretRef", "name"), "")
		}
	case v.Flocker != nil:
		if v.Flocker.DatasetName == "" && v.Flocker.DatasetUUID == "" {
			r.required(p, "one of datasetName and datasetUUID is required")
		}
		if v.Flocker.DatasetName != "" && v.Flocker.DatasetUUID != "" {
			r.invalid(p, "resource", "datasetName and datasetUUID can not be specified simultaneously")
		}
		if strings.Contains(v.Flocker.DatasetName, "/") {
			r.invalid(p.Child("datasetName"), v.Flocker.DatasetName, "must not contain '/'")
		}
	case v.FlexVolume != nil:
		need("driver", v.FlexVolume.Driver)
		for key := range sorted(v.FlexVolume.Options) {
			if domain, _, ok := strings.Cut(key, "/"); ok && (domain == "kubernetes.io" || strings.HasSuffix(domain, ".kubernetes.io")) {
				r.invalid(p.Child("options").Key(key), key, "kubernetes.io and k8s.io namespaces are reserved")
			}
		}
	case v.AzureFile != nil:
		need("secretName", v.AzureFile.SecretName)
		need("shareName", v.AzureFile.ShareName)
	case v.AzureDisk != nil:
		need("diskName", v.AzureDisk.DiskName)
		need("diskURI", v.AzureDisk.DataDiskURI)
		optionalOneOf(r, p.Child("cachingMode"), v.AzureDisk.CachingMode, corev1.AzureDataDiskCachingNone, corev1.AzureDataDiskCachingReadOnly, corev1.AzureDataDiskCachingReadWrite)
		optionalOneOf(r, p.Child("kind"), v.AzureDisk.Kind, corev1.AzureSharedBlobDisk, corev1.AzureDedicatedBlobDisk, corev1.AzureManagedDisk)
	case v.VsphereVolume != nil:
		need("volumePath", v.VsphereVolume.VolumePath)
	case v.PhotonPersistentDisk != nil:
		need("pdID", v.PhotonPersistentDisk.PdID)
	case v.PortworxVolume != nil:
		need("volumeID", v.PortworxVolume.VolumeID)
	case v.Quobyte != nil:
		need("registry", v.Quobyte.Registry)
		for _, address := range strings.Split(v.Quobyte.Registry, ",") {
			if host, port, ok := strings.Cut(address, ":"); v.Quobyte.Registry != "" && (!ok || host == "" || port == "") {
				r.invalid(p.Child("registry"), v.Quobyte.Registry, "must be a host:port pair or multiple pairs separated by commas")
			}
		}
		need("volume", v.Quobyte.Volume)
	case v.ScaleIO != nil:
		need("gateway", v.ScaleIO.Gateway)
		need("system", v.ScaleIO.System)
		need("volumeName", v.ScaleIO.VolumeName)
		if v.ScaleIO.SecretRef == nil {
			r.required(p.Child("secretRef"), "")
		}
	case v.StorageOS != nil:
		if v.StorageOS.SecretRef != nil && v.StorageOS.SecretRef.Name == "" {
			r.required(p.Child("secretRef", "name"), "")
		}
	}
}

func partition(r *report, p *field.Path, n int32) {
	if n < 0 || n > 255 {
		r.invalid(p, n, validation.InclusiveRangeError(0, 255))
	}
}

func iscsi(r *report, p *field.Path, portal, iqn string, lun int32, chap, hasSecret bool, initiator *string) {
	if portal == "" {
		r.required(p.Child("targetPortal"), "")
	}
	if iqn == "" {
		r.required(p.Child("iqn"), "")
	} else {
		iscsiName(r, p.Child("iqn"), iqn)
	}
	if lun < 0 || lun > 255 {
		r.invalid(p.Child("lun"), lun, validation.InclusiveRangeError(0, 255))
	}
	if chap && !hasSecret {
		r.required(p.Child("secretRef"), "")
	}
	if initiator != nil {
		iscsiName(r, p.Child("initiatorname"), *initiator)
	}
}

func iscsiName(r *report, p *field.Path, name string) {
	if !strings.HasPrefix(name, "iqn.") && !strings.HasPrefix(name, "eui.") && !strings.HasPrefix(name, "naa.") {
		r.invalid(p, name, "must be valid format starting with iqn, eui, or naa")
	}
}

func fc(r *report, p *field.Path, s *corev1.FCVolumeSource) {
	switch {
	case len(s.TargetWWNs) > 0 && len(s.WWIDs) > 0:
		r.invalid(p.Child("targetWWNs"), s.TargetWWNs, "fc.targetWWNs and fc.wwids can not be specified simultaneously")
	case len(s.TargetWWNs) == 0 && len(s.WWIDs) == 0:
		r.required(p.Child("targetWWNs"), "must specify either targetWWNs or wwids")
	case len(s.TargetWWNs) > 0 && s.Lun == nil:
		r.required(p.Child("lun"), "lun is required if targetWWNs is specified")
	case s.Lun != nil && len(s.TargetWWNs) > 0 && (*s.Lun < 0 || *s.Lun > 255):
		r.invalid(p.Child("lun"), strconv.Itoa(int(*s.Lun)), validation.InclusiveRangeError(0, 255))
	}
}
