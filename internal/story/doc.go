// Package story reads the service proxy's test stories: txtar files with Services, EndpointSlices and what must come of
// them, the same for the planner and for every backend. It is for tests only; it reads and writes the files that it is
// named and starts nothing.
package story
