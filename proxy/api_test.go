package proxy

import (
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"
)

// httpAPI is a real API over HTTP as far as the proxy needs one: objects are created, replaced, deleted, listed and
// watched. Processes of their own can use it, and it keeps up with any rate of changes, which client-go's fake does not.
type httpAPI struct {
	mu      sync.Mutex
	changed chan struct{} // closed and made anew with each change
	objects map[string]map[string]apiObject
	log     []apiChange // the n-th made version n+1
}

// apiKinds are the resources that there are.
var apiKinds = map[string][2]string{
	"services": {"Service", "v1"}, "nodes": {"Node", "v1"}, "events": {"Event", "v1"}, "endpointslices": {"EndpointSlice", "discovery.k8s.io/v1"},
}

type apiObject struct {
	labels labels.Set
	raw    json.RawMessage
}

type apiChange struct {
	apiObject
	resource string
	kind     string // ADDED, MODIFIED or DELETED
}

// newHTTPAPI serves an API with the node on loopback until the test ends.
func newHTTPAPI(t testing.TB) (client kubernetes.Interface, address string) {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	a := &httpAPI{changed: make(chan struct{}), objects: map[string]map[string]apiObject{}}
	s := &http.Server{Handler: a}
	var wg sync.WaitGroup
	wg.Go(func() { _ = s.Serve(l) })
	t.Cleanup(func() {
		_ = s.Close()
		wg.Wait()
	})
	address = "http://" + l.Addr().String()
	client = clientFor(t, address)
	node := &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: "here"}}
	if _, err := client.CoreV1().Nodes().Create(t.Context(), node, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	return client, address
}

func clientFor(t testing.TB, address string) kubernetes.Interface {
	t.Helper()
	c, err := apiClient(address)
	if err != nil {
		t.Fatal(err)
	}
	return c
}

func apiClient(address string) (kubernetes.Interface, error) {
	return kubernetes.NewForConfig(&rest.Config{
		Host: address, QPS: -1,
		ContentConfig: rest.ContentConfig{ContentType: "application/json", AcceptContentTypes: "application/json"},
	})
}

// ServeHTTP knows paths of the forms [/api/v1 | /apis/GROUP/VERSION] [/namespaces/NAMESPACE] /RESOURCE [/NAME].
func (a *httpAPI) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	parts := strings.Split(strings.Trim(r.URL.Path, "/"), "/")
	parts = parts[min(len(parts), map[string]int{"api": 2, "apis": 3}[parts[0]]):]
	namespace := ""
	if len(parts) > 2 && parts[0] == "namespaces" {
		namespace, parts = parts[1], parts[2:]
	}
	if len(parts) == 0 || apiKinds[parts[0]][0] == "" {
		apiError(w, http.StatusNotFound)
		return
	}
	resource, name := parts[0], strings.Join(parts[1:], "/")
	selector, err := labels.Parse(r.URL.Query().Get("labelSelector"))
	if err != nil {
		apiError(w, http.StatusBadRequest)
		return
	}
	switch {
	case r.Method == http.MethodGet && name != "":
		a.mu.Lock()
		o, ok := a.objects[resource][namespace+"/"+name]
		a.mu.Unlock()
		if !ok {
			apiError(w, http.StatusNotFound)
			return
		}
		_, _ = w.Write(o.raw)
	case r.Method == http.MethodGet && r.URL.Query().Get("watch") == "true":
		a.watch(w, r, resource, selector)
	case r.Method == http.MethodGet:
		a.list(w, resource, selector)
	case r.Method == http.MethodDelete:
		a.write(w, resource, namespace+"/"+name, nil, func(had bool) bool { return had })
	default:
		body, err := io.ReadAll(r.Body)
		var meta metav1.PartialObjectMetadata
		if err != nil || json.Unmarshal(body, &meta) != nil {
			apiError(w, http.StatusBadRequest)
			return
		}
		a.write(w, resource, namespace+"/"+meta.Name, body, func(had bool) bool { return had == (r.Method == http.MethodPut) })
	}
}

func apiError(w http.ResponseWriter, code int) {
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(code)
	_ = json.NewEncoder(w).Encode(metav1.Status{
		TypeMeta: metav1.TypeMeta{Kind: "Status", APIVersion: "v1"}, Status: metav1.StatusFailure, Code: int32(code), Message: http.StatusText(code),
	})
}

// write puts an object where may allows it, or deletes it when body is nil, and answers it.
func (a *httpAPI) write(w http.ResponseWriter, resource, key string, body []byte, may func(had bool) bool) {
	a.mu.Lock()
	defer a.mu.Unlock()
	old, had := a.objects[resource][key]
	if !may(had) {
		apiError(w, map[bool]int{true: http.StatusConflict, false: http.StatusNotFound}[had])
		return
	}
	change := apiChange{old, resource, "DELETED"}
	if body == nil {
		delete(a.objects[resource], key)
	} else {
		o := map[string]any{}
		_ = json.Unmarshal(body, &o)
		meta, _ := o["metadata"].(map[string]any)
		if meta == nil {
			apiError(w, http.StatusBadRequest)
			return
		}
		o["kind"], o["apiVersion"] = apiKinds[resource][0], apiKinds[resource][1]
		meta["resourceVersion"] = strconv.Itoa(len(a.log) + 1)
		var of metav1.PartialObjectMetadata
		_ = json.Unmarshal(body, &of)
		raw, _ := json.Marshal(o)
		change = apiChange{apiObject{of.Labels, raw}, resource, map[bool]string{true: "MODIFIED", false: "ADDED"}[had]}
		if a.objects[resource] == nil {
			a.objects[resource] = map[string]apiObject{}
		}
		a.objects[resource][key] = change.apiObject
	}
	a.log = append(a.log, change)
	close(a.changed)
	a.changed = make(chan struct{})
	w.Header().Set("Content-Type", "application/json")
	_, _ = w.Write(change.raw)
}

// now are a resource's objects that a selector matches, and the version that they are of.
func (a *httpAPI) now(resource string, selector labels.Selector) (items []json.RawMessage, version int) {
	a.mu.Lock()
	defer a.mu.Unlock()
	for _, o := range a.objects[resource] {
		if selector.Matches(o.labels) {
			items = append(items, o.raw)
		}
	}
	return items, len(a.log)
}

func (a *httpAPI) list(w http.ResponseWriter, resource string, selector labels.Selector) {
	items, version := a.now(resource, selector)
	if items == nil {
		items = []json.RawMessage{}
	}
	w.Header().Set("Content-Type", "application/json")
	_ = json.NewEncoder(w).Encode(map[string]any{
		"kind": apiKinds[resource][0] + "List", "apiVersion": apiKinds[resource][1],
		"metadata": map[string]string{"resourceVersion": strconv.Itoa(version)}, "items": items,
	})
}

// watch tells every change since a version, or, asked for them, everything that is there and then every change.
func (a *httpAPI) watch(w http.ResponseWriter, r *http.Request, resource string, selector labels.Selector) {
	from, _ := strconv.Atoi(r.URL.Query().Get("resourceVersion"))
	w.Header().Set("Content-Type", "application/json")
	tell := func(kind string, object json.RawMessage) error {
		_, err := fmt.Fprintf(w, "{\"type\":%q,\"object\":%s}\n", kind, object)
		return err
	}
	if r.URL.Query().Get("sendInitialEvents") == "true" {
		items, version := a.now(resource, selector)
		for _, o := range items {
			_ = tell("ADDED", o)
		}
		from = version
		_ = tell("BOOKMARK", fmt.Appendf(nil, `{"kind":%q,"apiVersion":%q,"metadata":{"resourceVersion":"%d","annotations":{%q:"true"}}}`,
			apiKinds[resource][0], apiKinds[resource][1], version, metav1.InitialEventsAnnotationKey))
	}
	for {
		a.mu.Lock()
		news, changed := slices.Clone(a.log[min(from, len(a.log)):]), a.changed
		a.mu.Unlock()
		from += len(news)
		for _, c := range news {
			if c.resource == resource && selector.Matches(c.labels) && tell(c.kind, c.raw) != nil {
				return
			}
		}
		w.(http.Flusher).Flush()
		select {
		case <-changed:
		case <-r.Context().Done():
			return
		}
	}
}
