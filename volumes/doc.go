// Package volumes brings a pod's volumes to where its containers can mount them, and takes them away again.
package volumes
