// Package mirror keeps the API's image of each static pod: a mirror pod, owned by the Node, made, remade when it was
// deleted or its static pod changed, and deleted with it. Run starts one goroutine. The package never touches a pod that
// does not carry the mirror annotation.
package mirror
