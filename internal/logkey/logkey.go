package logkey

// Keys are lowerCamelCase. Values that are secrets, tokens or environment values are never logged.
const (
	Pod           = "pod" // namespace/name
	PodUID        = "podUID"
	ContainerName = "containerName"
	ContainerID   = "containerID"
	SandboxID     = "sandboxID"
	Image         = "image"
	VolumeName    = "volumeName"
	Node          = "node"
	Service       = "service"
	IPFamily      = "ipFamily"
	Path          = "path"
	Duration      = "duration"
	Err           = "err"
)
