// Package plantest is what the tests of all backends share: stories planned, and their packets sent through what a backend
// makes of the plans.
package plantest
