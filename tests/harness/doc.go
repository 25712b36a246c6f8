// Package harness starts raftd and etcd as processes: one member, or a cluster of them, for the
// tests of real processes and for the benchmarks that stop, pause and kill servers.
//
// Every process dies with the program that started it. Ports lie below the ephemeral range, so that
// no outgoing connection takes one between two starts.
package harness
