// Package namespace empties namespaces that are being deleted and then lets them go.
//
// Everything in a namespace is found by discovery, so custom resources go too; pods go first. One loop; a namespace is looked
// at again when its pods go, and after a short and growing while. Writes deletions, the namespace's conditions and, at the
// end, its finalizers.
package namespace
