package scheme

import (
	"bytes"
	"os"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"sigs.k8s.io/yaml"

	"github.com/reevehq/reeve/controlplane/apis"
)

// What a client's JSON becomes has to be what the store's protobuf becomes, or applying the same object twice would be a
// write and a watch event each time.
func TestStoredObjectsReadBackAsTheyWereSent(t *testing.T) {
	raw, err := os.ReadFile("../testdata/every-kind.yaml")
	if err != nil {
		t.Fatal(err)
	}
	seen := 0
	for _, doc := range bytes.Split(raw, []byte("\n---\n")) {
		json, err := yaml.YAMLToJSON(doc)
		if err != nil {
			t.Fatal(err)
		}
		sent, gvk, err := Codecs.UniversalDecoder(internalVersions()...).Decode(json, nil, nil)
		if err != nil {
			t.Errorf("decode %s: %v", doc, err)
			continue
		}
		seen++
		info, _ := runtime.SerializerInfoForMediaType(Codecs.SupportedMediaTypes(), runtime.ContentTypeProtobuf)
		codec := Codecs.CodecForVersions(info.Serializer, Codecs.UniversalDeserializer(), gvk.GroupVersion(), internal(gvk.Group))
		stored, err := runtime.Encode(codec, sent)
		if err != nil {
			t.Errorf("encode %s: %v", gvk.Kind, err)
			continue
		}
		read, err := runtime.Decode(codec, stored)
		if err != nil {
			t.Errorf("decode stored %s: %v", gvk.Kind, err)
			continue
		}
		if d := cmp.Diff(sent, read, cmpopts.EquateEmpty()); d != "" {
			t.Errorf("%s reads back differently (-sent +read):\n%s", gvk.Kind, d)
		}
	}
	if seen < len(apis.Kinds())-3 {
		t.Errorf("only %d kinds compared", seen)
	}
}

func internalVersions() []schema.GroupVersion {
	var out []schema.GroupVersion
	for _, g := range groups {
		out = append(out, internal(g.gv.Group))
	}
	return out
}
