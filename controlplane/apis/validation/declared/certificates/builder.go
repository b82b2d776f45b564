package certificates

import "k8s.io/apimachinery/pkg/runtime"

// localSchemeBuilder receives what the generated init registers; the parent package calls RegisterValidations itself.
var localSchemeBuilder runtime.SchemeBuilder
