package kubeletconfig

import (
	"errors"
	"fmt"
	"io/fs"
	"path/filepath"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	kubelet "k8s.io/kubelet/config/v1beta1"
	"k8s.io/utils/ptr"

	"github.com/reevehq/reeve/internal/dropin"
)

// Kind is what every configuration file must be of.
var Kind = dropin.Kind{APIVersion: "kubelet.config.k8s.io/v1beta1", Kind: "KubeletConfiguration"}

// DefaultEvictionHard are upstream's hard thresholds.
var DefaultEvictionHard = map[string]string{
	"memory.available": "100Mi", "nodefs.available": "10%", "nodefs.inodesFree": "5%", "imagefs.available": "15%", "imagefs.inodesFree": "5%",
}

// Loaded is a complete and valid configuration.
type Loaded struct {
	kubelet.KubeletConfiguration
	// Missing is what is set and not implemented; Deprecated a sentence for each deprecated flag that was given. Both are to
	// be told once.
	Missing    []dropin.Finding
	Deprecated []string
}

// Load puts together upstream's defaults, the file of --config, the folder of --config-dir and the flags, each over what
// came before. All errors are reported, each names the file or flag, and the field.
func Load(flags *dropin.Flags) (*Loaded, error) {
	doc := dropin.Document{}
	var err error
	if path := flags.Value("config"); path != "" {
		if doc, err = dropin.Read(path, Kind, &kubelet.KubeletConfiguration{}); err != nil {
			return nil, fmt.Errorf("--config: %w", err)
		}
		if err := root(doc, path); err != nil {
			return nil, err
		}
	}
	if dir := flags.Value("config-dir"); dir != "" {
		doc, err = dropin.ReadFolder(doc, dir, Kind, func() any { return new(kubelet.KubeletConfiguration) })
		if errors.Is(err, fs.ErrNotExist) {
			return nil, fmt.Errorf("--config-dir: %w; make the folder or leave the flag out", err)
		}
		if err != nil {
			return nil, fmt.Errorf("--config-dir: %w", err)
		}
	}
	flags.Apply(doc)
	l := &Loaded{}
	if err := doc.Decode(&l.KubeletConfiguration); err != nil {
		return nil, err
	}
	setDefaults(&l.KubeletConfiguration)
	var bad, badFlags []dropin.Finding
	l.Missing, bad = Fields.Review(doc)
	missing, badFlags, deprecated := flags.Review()
	l.Missing, l.Deprecated = append(l.Missing, missing...), deprecated
	for _, e := range l.EnforceNodeAllocatable {
		if e != "pods" && e != "none" {
			l.Missing = append(l.Missing, dropin.Finding{Path: "enforceNodeAllocatable", Value: e, Note: "only pods are limited together"})
		}
	}
	var all []error
	for _, f := range append(bad, badFlags...) {
		all = append(all, fmt.Errorf("%s: %q is refused: %s", f.Path, f.Value, f.Note))
	}
	return l, errors.Join(append(all, validate(&l.KubeletConfiguration))...)
}

// root makes the file's relative paths absolute: they count from its folder, as upstream.
func root(doc dropin.Document, file string) error {
	dir, err := filepath.Abs(filepath.Dir(file))
	if err != nil {
		return fmt.Errorf("--config %q: %w", file, err)
	}
	for _, field := range []string{"staticPodPath", "tlsCertFile", "tlsPrivateKeyFile", "resolvConf", "authentication.x509.clientCAFile"} {
		if s, ok := doc.Get(field).(string); ok && s != "" && !filepath.IsAbs(s) {
			doc.Set(field, filepath.Join(dir, s), false)
		}
	}
	return nil
}

// setDefaults fills what reeve reads with upstream's defaults. These stay as they are, because absent means something of
// its own: failCgroupV1, failSwapOn, serializeImagePulls, cgroupDriver, containerRuntimeEndpoint, resolvConf.
func setDefaults(c *kubelet.KubeletConfiguration) {
	def := func(s *string, v string) {
		if *s == "" {
			*s = v
		}
	}
	dur := func(d *metav1.Duration, v time.Duration) {
		if d.Duration == 0 {
			d.Duration = v
		}
	}
	num := func(i *int32, v int32) {
		if *i == 0 {
			*i = v
		}
	}
	if c.EnableServer == nil {
		c.EnableServer = ptr.To(true)
	}
	def(&c.PodLogsDir, "/var/log/pods")
	dur(&c.SyncFrequency, time.Minute)
	def(&c.Address, "0.0.0.0")
	num(&c.Port, 10250)
	if c.Authentication.Anonymous.Enabled == nil {
		c.Authentication.Anonymous.Enabled = ptr.To(false)
	}
	if c.Authentication.Webhook.Enabled == nil {
		c.Authentication.Webhook.Enabled = ptr.To(true)
	}
	if c.Authorization.Mode == "" {
		c.Authorization.Mode = kubelet.KubeletAuthorizationModeWebhook
	}
	if c.HealthzPort == nil {
		c.HealthzPort = ptr.To[int32](10248)
	}
	def(&c.HealthzBindAddress, "127.0.0.1")
	if c.OOMScoreAdj == nil {
		c.OOMScoreAdj = ptr.To[int32](-999)
	}
	if c.KubeAPIQPS == nil {
		c.KubeAPIQPS = ptr.To[int32](50)
	}
	num(&c.KubeAPIBurst, 100)
	if c.EventRecordQPS == nil {
		c.EventRecordQPS = ptr.To[int32](50)
	}
	num(&c.EventBurst, 100)
	def(&c.ContentType, "application/vnd.kubernetes.protobuf")
	if c.RegisterNode == nil {
		c.RegisterNode = ptr.To(true)
	}
	if c.NodeStatusReportFrequency.Duration == 0 {
		// As upstream: a status that is asked for more often is also written more often.
		c.NodeStatusReportFrequency.Duration = 5 * time.Minute
		if c.NodeStatusUpdateFrequency.Duration != 0 {
			c.NodeStatusReportFrequency = c.NodeStatusUpdateFrequency
		}
	}
	dur(&c.NodeStatusUpdateFrequency, 10*time.Second)
	num(&c.NodeLeaseDurationSeconds, 40)
	if c.CgroupRoot == "" {
		c.CgroupRoot = "/"
	}
	if c.EnforceNodeAllocatable == nil {
		c.EnforceNodeAllocatable = []string{"pods"}
	}
	if c.PodPidsLimit == nil {
		c.PodPidsLimit = ptr.To[int64](-1)
	}
	num(&c.MaxPods, 110)
	dur(&c.ImageMinimumGCAge, 2*time.Minute)
	if c.ImageGCHighThresholdPercent == nil {
		c.ImageGCHighThresholdPercent = ptr.To[int32](85)
	}
	if c.ImageGCLowThresholdPercent == nil {
		c.ImageGCLowThresholdPercent = ptr.To[int32](80)
	}
	def(&c.ContainerLogMaxSize, "10Mi")
	if c.ContainerLogMaxFiles == nil {
		c.ContainerLogMaxFiles = ptr.To[int32](5)
	}
	dur(&c.EvictionPressureTransitionPeriod, 5*time.Minute)
	def(&c.Logging.Format, "text")
}
