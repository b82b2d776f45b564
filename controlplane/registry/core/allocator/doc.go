// Package allocator gives Services their cluster addresses and node ports, each to one Service only.
//
// An address is held by an IPAddress object of its name, so that etcd itself keeps it unique however many servers
// allocate. Node ports are bits of one RangeAllocation object, at upstream's key and in upstream's format, changed in
// transactions. Explicit requests are served from anywhere in a range, random ones from its upper band first, so that
// low addresses and ports stay free for people to choose.
//
// The hooks of the Service store work like this:
//
//	begin ── allocate what the new object lacks ──→ [strategy, validation, admission] ──→ commit
//	            │ on any failure: give back                                              │
//	            └────────────────────────────────────────────────────────────────────────┴→ after: release what the
//	                                                                                         committed object no longer has
//
// A crash between the steps can only leak (an address without its Service) or, when objects were edited behind our
// back, miss; Run, the only goroutine, repairs both every few minutes and at start.
//
// It never moves a Service's address, and never touches IPAddress objects that others manage.
package allocator
