// Package systemd speaks to the service manager: readiness, watchdog, units and slices. It is silent where there is
// none.
package systemd
