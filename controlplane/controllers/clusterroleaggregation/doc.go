// Package clusterroleaggregation fills ClusterRoles that are defined as the sum of others, such as admin, edit and view. One
// loop; writes only the rules of such roles.
package clusterroleaggregation
