package harness

import (
	"fmt"
	"math/rand/v2"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"sync"
)

// Root finds the project's folder above the working directory or above the running program.
func Root() (string, error) {
	working, err := os.Getwd()
	if err != nil {
		return "", err
	}
	program, err := os.Executable()
	if err != nil {
		return "", err
	}
	for _, start := range []string{working, filepath.Dir(program)} {
		for dir := start; ; dir = filepath.Dir(dir) {
			if _, err := os.Stat(filepath.Join(dir, "CMakePresets.json")); err == nil {
				return dir, nil
			}
			if dir == filepath.Dir(dir) {
				break
			}
		}
	}
	return "", fmt.Errorf("neither %s nor %s lies in the project", working, program)
}

// Program is the path that an environment variable names, or one below the project's folder. It is
// an error when nothing is there.
func Program(variable, fallback string) (string, error) {
	path := os.Getenv(variable)
	if path == "" {
		root, err := Root()
		if err != nil {
			return "", err
		}
		path = filepath.Join(root, fallback)
		if filepath.IsAbs(fallback) {
			path = fallback
		}
	}
	path, err := filepath.Abs(path)
	if err == nil {
		_, err = os.Stat(path)
	}
	if err != nil {
		err = fmt.Errorf("%s: %w (set %s; bench/peers/build builds the etcd programs)", variable, err, variable)
	}
	return path, err
}

func Raftd() (string, error) { return Program("RAFTD", "build/release/bin/raftd") }

// WorkDir makes a new directory below build/, of which `kind` is the folder.
func WorkDir(kind, pattern string) (string, error) {
	root, err := Root()
	if err != nil {
		return "", err
	}
	folder := filepath.Join(root, "build", kind)
	if err := os.MkdirAll(folder, 0o755); err != nil {
		return "", err
	}
	return os.MkdirTemp(folder, pattern)
}

var given struct {
	sync.Mutex
	ports map[int]bool
}

// FreePort finds a port that nobody has and that was not given out before. Tests that run side by
// side draw from different tens of thousands, by TEST_SLOT.
func FreePort() (int, error) {
	first, count := 10000, 20000
	if slot, err := strconv.Atoi(os.Getenv("TEST_SLOT")); err == nil {
		first, count = 10000+slot%2*10000, 10000
	}
	given.Lock()
	defer given.Unlock()
	if given.ports == nil {
		given.ports = map[int]bool{}
	}
	for range 200 {
		port := first + rand.IntN(count)
		if given.ports[port] {
			continue
		}
		listener, err := net.Listen("tcp", fmt.Sprintf("127.0.0.1:%d", port))
		if err == nil {
			listener.Close()
			given.ports[port] = true
			return port, nil
		}
	}
	return 0, fmt.Errorf("no free port")
}
