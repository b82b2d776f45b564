// Package quota measures what objects take from a namespace's ResourceQuotas: evaluators for pods, Services, claims and
// device claims, and counts of everything else. The ResourceQuota admission plugin and the controller that fills quota
// status share it. It starts no goroutines, writes nothing, and reads the cluster only through the lister it is given.
package quota
