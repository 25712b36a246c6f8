// Package compat holds differential tests: the same calls go to a stock etcd and to raftd, and
// the replies have to be equal, down to revisions, error codes and error texts.
//
//	RAFTD        program under test     [build/release/bin/raftd]
//	RAFTCTL      raftctl beside etcdctl   [build/release/bin/raftctl]
//	RAFTD_FLAGS  more flags for it, separated by blanks
//	PEER         the etcd to compare with [build/peers/etcd]
//	ETCDCTL      etcdctl of that version  [build/peers/etcdctl]
//	ETCDCTL_OLD  a much older etcdctl     [/usr/bin/etcdctl]
//	SEED         seed of the random sequences [of the clock; always printed]
//	TEST_SLOT    0 or 1: of two runs at a time, which this is
//	OPS          operations in the random sequences [28000]
//
// A missing program is a failure, never a skip. With RAFTD set to an etcd binary the suite
// compares etcd with itself, which tests the suite.
package compat
