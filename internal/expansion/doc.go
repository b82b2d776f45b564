// Package expansion resolves $(VAR) references as core/v1 defines them for command, args, env and subPathExpr. It has no
// state and starts nothing.
package expansion
