package table

import (
	"k8s.io/apiserver/pkg/registry/rest"

	"github.com/reevehq/reeve/controlplane/apis"
)

// For gives the kind's table convertor: its own columns, or name and age.
func For(kind *apis.Kind) rest.TableConvertor {
	return rest.NewDefaultTableConvertor(kind.GroupResource())
}
