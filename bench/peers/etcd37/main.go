// Builds a stock etcd server from its published module, as the peer of benchmarks and of the
// differential tests.
package main

import (
	"os"

	"go.etcd.io/etcd/server/v3/etcdmain"
)

func main() {
	etcdmain.Main(os.Args)
}
