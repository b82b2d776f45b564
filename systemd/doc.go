// Package systemd speaks to the service manager: readiness and watchdog over the notify socket, transient scopes and
// slices and the state of services over D-Bus, and the text of the unit files that `reeve install` writes. It starts no
// goroutine, but a Slices' connection has two of its library's; Watchdog blocks its caller. Where there is no systemd it is
// silent or answers ErrNoSystemd, and it never changes a unit that it was not named.
package systemd
