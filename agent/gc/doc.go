// Package gc takes away what nobody needs: dead containers beyond the newest of each name, sandboxes that were replaced,
// log folders, folders and cgroups of pods that are gone, unused images when the disk fills, and it rotates container
// logs. Nothing unknown is removed before every source of pods has told what it has. Run is one goroutine.
package gc
