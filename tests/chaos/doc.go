// Package chaos kills real servers and looks at what they come back with.
//
// A round is: start raftd, compare its state with the model, load it from gRPC and native
// connections, kill -9 at a random moment, read the log with raftctl, let the model apply what is
// new there, and look for every acknowledged write in it. The model knows nothing of the server's
// code: it is etcd's data model over the requests that `raftctl debug log --json` prints.
//
// Beside that, a table of damages: each kind of file is changed, cut or removed at several places,
// and raftd has to refuse it with file, offset and what to do, leaving every byte as it was.
//
// TestCluster does the same to three members at once, with kill, pause and stop of the leader, of
// others and of all. Clients write and read through every member meanwhile, and what they saw has to
// be linearizable (history.go): key by key, and by the revisions of all answers. TestPartitions puts
// the members into network namespaces and cuts them off from each other, in one direction or both;
// it needs root and nftables, and skips without. TestReplaceAll replaces every member by a new one,
// TestLaggard brings one back that was away for more than the log keeps.
// TestPeerPort sends members noise, damaged, misdirected and old frames, and what was recorded in
// another cluster.
//
// TestRepair damages blocks in logs of stopped members, which get them back from the others;
// TestTornEverywhere tears the last block of every member at once, and the group gives it up;
// TestFenced leaves nothing that tells what they were, and the member has to refuse. TestHangingDisk
// freezes the file system below the leader; it needs root and loop devices, and skips without.
// TestStopWhileStarting tells a member to stop that waits for a cluster which does not answer.
//
//	RAFTD     program under test   [build/release/bin/raftd]
//	RAFTCTL   reads the log        [build/release/bin/raftctl]
//	ROUNDS    how often to kill    [20; of a cluster 8; how often to cut: 9]
//	ISOLATION seconds that TestIsolatedFollower keeps one away [5]
//	SEED      of everything random [of the clock; always printed]
//
// A failed run leaves its data directory and says where it is.
package chaos
