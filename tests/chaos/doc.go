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
//	RAFTD     program under test   [build/release/bin/raftd]
//	RAFTCTL   reads the log        [build/release/bin/raftctl]
//	ROUNDS    how often to kill    [20]
//	SEED      of everything random [of the clock; always printed]
//
// A failed run leaves its data directory and says where it is.
package chaos
