// Package service tests how Services get addresses and ports from the real API server on a real etcd.
package service
