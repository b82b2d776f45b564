// Package resourcequota keeps the usage in ResourceQuotas' status, against which admission then counts. One loop keyed by
// quota; a quota is calculated anew when it changes, when something that it counts goes, and from time to time. Writes only
// the status.
package resourcequota
