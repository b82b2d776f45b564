// Package volumes brings a pod's volumes to where its containers can mount them, keeps their content current, and takes
// them away again.
//
// It owns RootDir/pods/<uid>/volumes and RootDir/pods/<uid>/volume-subpaths (kubelet's layout), and one goroutine a pod
// while that pod has volume work to do; a pod at rest costs a map entry and at most one timer. A look at a file system
// that does not answer costs a goroutine for as long as the kernel holds it, and holds nobody else. What is mounted is read
// from the kernel, so nothing needs a checkpoint.
//
// Set-up: planSetUp (pure) names a step for each volume that a container mounts; every step is idempotent. Tear-down:
// planTearDown (pure) turns the mounts and folders that were observed into unmounts, deepest first, and removals.
//
// It never starts or stops containers, never deletes what lies behind a hostPath, never follows a link out of a volume,
// and never removes a folder that has a mount below it.
package volumes
