// Package server is the API server: the generic server of k8s.io/apiserver three times in a chain (aggregator in front,
// then the built-in kinds, then custom resources), with storage from package registry, and authentication,
// authorization and admission from their own packages.
//
// Server.Run starts the listener, the informers and the post-start hooks, and returns when all requests have drained.
// The package never writes files and never starts controllers of the cluster: it only serves the API, and registers its
// own APIServices, FlowSchemas and trust anchors through it.
package server
