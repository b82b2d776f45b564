// Package disruption keeps the status of PodDisruptionBudgets, by which the eviction endpoint allows or refuses. One loop keyed
// by budget; writes only their status, and DisruptionTarget conditions of pods whose disruption never came.
package disruption
