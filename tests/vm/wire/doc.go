// Package wire is what the host and the guest program say to each other: JSON values, one a line, over a serial port.
package wire

// Request asks the guest to run a command.
type Request struct {
	ID   int
	Args []string
	Env  []string `json:",omitempty"` // added to the guest's own
	Dir  string   `json:",omitempty"`
	// TimeoutSeconds kills the command's process group. 0: none.
	TimeoutSeconds float64 `json:",omitempty"`
}

// Reply carries some output of a request's command, or, with Done, its end. A reply with ID 0 says that the guest has
// come up.
type Reply struct {
	ID       int
	Output   []byte `json:",omitempty"`
	Done     bool   `json:",omitempty"`
	ExitCode int    `json:",omitempty"` // -1: killed by a signal, or never started
	Error    string `json:",omitempty"`
}
