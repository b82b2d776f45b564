package loop

import (
	"log/slog"
	"time"

	"k8s.io/client-go/dynamic"
	"k8s.io/client-go/informers"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/metadata"
	"k8s.io/client-go/tools/record"
)

// CallTimeout bounds one request of a controller to the API: far above a healthy server's answer, so that only a hung
// connection meets it.
const CallTimeout = 30 * time.Second

// Env is what a controller gets from its manager. Fields are shared by all controllers.
type Env struct {
	Client    kubernetes.Interface
	Dynamic   dynamic.Interface
	Metadata  metadata.Interface
	Informers informers.SharedInformerFactory
	// StartInformers starts what was asked of Informers since; they live as long as the manager, not the controller.
	StartInformers func()
	Log            *slog.Logger
	// Recorder records events on behalf of the named controller.
	Recorder func(component string) record.EventRecorder
}
