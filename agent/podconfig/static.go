package podconfig

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/fsnotify/fsnotify"
	v1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/validation"
	"sigs.k8s.io/yaml"

	"github.com/reevehq/reeve/agent/container"
	"github.com/reevehq/reeve/internal/logkey"
)

const (
	// settle waits for an editor's several writes to one file to be over.
	settle = 50 * time.Millisecond
	// rescan finds what inotify does not tell of (network file systems), as upstream's fileCheckFrequency.
	rescan = 20 * time.Second
)

// Static watches a folder, or one file, of pod manifests.
type Static struct {
	Path   string
	Node   string
	To     Receiver
	Logger *slog.Logger

	pods map[types.UID]*v1.Pod
	bad  map[string]string // file → last error, told once
}

// Run tells of the folder's pods until ctx ends. A file that cannot be read or is no pod is logged and left out; the
// others are unharmed. A missing folder is an empty one.
func (s *Static) Run(ctx context.Context) error {
	s.pods, s.bad = map[types.UID]*v1.Pod{}, map[string]string{}
	w, err := fsnotify.NewWatcher()
	if err != nil {
		s.Logger.Warn("Failed to watch static pods, reading them every 20 s", logkey.Path, s.Path, logkey.Err, err)
		w = &fsnotify.Watcher{}
	} else {
		defer w.Close()
		_ = w.Add(s.Path) // a folder that does not exist yet is found by the rescan
	}
	s.scan()
	s.To.Synced(File)
	tick := time.NewTicker(rescan)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
			if w.Events != nil && len(w.WatchList()) == 0 {
				_ = w.Add(s.Path)
			}
		case <-w.Events:
			t := time.NewTimer(settle)
			for waiting := true; waiting; {
				select {
				case <-w.Events:
				case <-t.C:
					waiting = false
				case <-ctx.Done():
					t.Stop()
					return nil
				}
			}
		case err := <-w.Errors:
			s.Logger.Warn("Lost events of static pods", logkey.Path, s.Path, logkey.Err, err)
		}
		s.scan()
	}
}

// scan reads everything and tells the difference.
func (s *Static) scan() {
	files, err := manifests(s.Path)
	if err != nil {
		s.complain(s.Path, err)
		return
	}
	now := map[types.UID]*v1.Pod{}
	names := map[string]string{}
	for _, f := range files {
		data, err := os.ReadFile(f)
		var pod *v1.Pod
		if err == nil {
			pod, err = Decode(data, f, s.Node)
		}
		if err == nil {
			full := pod.Namespace + "/" + pod.Name
			if other, dup := names[full]; dup {
				err = fmt.Errorf("pod %s is already defined by %s", full, other)
			}
			names[full] = f
		}
		if err != nil {
			s.complain(f, err)
			continue
		}
		delete(s.bad, f)
		if old := s.pods[pod.UID]; old != nil {
			pod = old
		}
		now[pod.UID] = pod
	}
	for uid, p := range s.pods {
		if now[uid] == nil {
			s.To.DropPod(File, p)
		}
	}
	for uid, p := range now {
		if s.pods[uid] == nil {
			s.To.SetPod(File, p)
		}
	}
	s.pods = now
}

func (s *Static) complain(file string, err error) {
	if s.bad[file] == err.Error() {
		return
	}
	s.bad[file] = err.Error()
	s.Logger.Error("Failed to read static pod", logkey.Path, file, logkey.Err, err)
}

func manifests(path string) ([]string, error) {
	st, err := os.Stat(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	if !st.IsDir() {
		return []string{path}, nil
	}
	ents, err := os.ReadDir(path)
	if err != nil {
		return nil, err
	}
	var out []string
	for _, e := range ents {
		n := e.Name()
		ext := strings.ToLower(filepath.Ext(n))
		if strings.HasPrefix(n, ".") || e.IsDir() || (ext != ".yaml" && ext != ".yml" && ext != ".json" && ext != ".manifest") {
			continue
		}
		out = append(out, filepath.Join(path, n))
	}
	slices.Sort(out)
	return out, nil
}

// Decode reads one manifest and makes it this node's: UID from file and content, "-<node>" after the name, the
// annotations of a file source, defaults as the API server would fill them in.
func Decode(data []byte, file, node string) (*v1.Pod, error) {
	js, err := yaml.YAMLToJSONStrict(data)
	if err != nil {
		return nil, fmt.Errorf("parse manifest: %w", err)
	}
	var pod v1.Pod
	dec := json.NewDecoder(strings.NewReader(string(js)))
	dec.DisallowUnknownFields()
	if err := dec.Decode(&pod); err != nil {
		return nil, fmt.Errorf("parse manifest: %w", err)
	}
	if pod.Kind != "Pod" || pod.APIVersion != "v1" {
		return nil, fmt.Errorf("kind: %s %s is not v1 Pod", pod.APIVersion, pod.Kind)
	}
	if pod.Name == "" {
		return nil, errors.New("metadata.name: required")
	}
	if len(pod.Spec.Containers) == 0 {
		return nil, errors.New("spec.containers: at least one is required")
	}
	if err := refuse(&pod); err != nil {
		return nil, err
	}
	if pod.UID == "" {
		sum := sha256.Sum256(fmt.Appendf(nil, "host:%s\nfile:%s\n%s", node, file, js))
		pod.UID = types.UID(hex.EncodeToString(sum[:16]))
	}
	pod.Name += "-" + strings.ToLower(node)
	if errs := validation.IsDNS1123Subdomain(pod.Name); len(errs) > 0 {
		return nil, fmt.Errorf("metadata.name: %q: %s", pod.Name, strings.Join(errs, "; "))
	}
	if pod.Namespace == "" {
		pod.Namespace = "default"
	}
	pod.Annotations = maps.Clone(pod.Annotations)
	if pod.Annotations == nil {
		pod.Annotations = map[string]string{}
	}
	pod.Annotations[container.ConfigSourceAnnotation] = string(File)
	pod.Annotations[container.ConfigHashAnnotation] = string(pod.UID)
	if st, err := os.Stat(file); err == nil {
		pod.Annotations[container.ConfigSeenAnnotation] = st.ModTime().UTC().Format(time.RFC3339Nano)
	}
	pod.Spec.NodeName = node
	// Nobody evicts a static pod by a taint: it would only come back.
	pod.Spec.Tolerations = append(pod.Spec.Tolerations, v1.Toleration{Operator: v1.TolerationOpExists, Effect: v1.TaintEffectNoExecute})
	pod.Status = v1.PodStatus{}
	setDefaults(&pod)
	return &pod, nil
}

// refuse names what a pod without an API server behind it cannot have.
func refuse(pod *v1.Pod) error {
	if pod.Spec.ServiceAccountName != "" {
		return errors.New("spec.serviceAccountName: a static pod cannot have a service account")
	}
	if len(pod.Spec.EphemeralContainers) > 0 {
		return errors.New("spec.ephemeralContainers: a static pod cannot have any")
	}
	for i := range pod.Spec.Volumes {
		v := &pod.Spec.Volumes[i]
		if v.ConfigMap != nil || v.Secret != nil || v.PersistentVolumeClaim != nil {
			return fmt.Errorf("spec.volumes[%d] %q: a static pod cannot refer to objects of the API", i, v.Name)
		}
	}
	return nil
}
