package validation

import (
	"reflect"
	"testing"

	"github.com/reevehq/reeve/controlplane/apis"
)

// TestTableMatchesServedKinds: every stored kind is known here, with the scope that it is served in, and is either
// checked by hand or named in doc.go.
func TestTableMatchesServedKinds(t *testing.T) {
	unchecked := map[string]bool{"DeviceClass": true, "ResourceClaim": true, "ResourceClaimTemplate": true, "ResourceSlice": true, "ServiceAccount": true}
	for _, k := range apis.Kinds() {
		r, known := kinds()[reflect.TypeOf(k.New())]
		if !known {
			t.Errorf("%s is served, but not in the table", k.GroupVersionKind)
			continue
		}
		if r.clusterScoped != k.Cluster && !r.ownMetadata {
			t.Errorf("%s: cluster scope is %t here, %t where it is served", k.GroupVersionKind, r.clusterScoped, k.Cluster)
		}
		if checked := r.create != nil; checked == unchecked[k.Kind] {
			t.Errorf("%s: checked by hand is %t; doc.go and this test say otherwise", k.GroupVersionKind, checked)
		}
		if k.Status && r.subresources["status"] == nil {
			t.Logf("%s: status is stored with its metadata checked only", k.GroupVersionKind)
		}
	}
}
