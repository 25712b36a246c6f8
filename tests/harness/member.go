package harness

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/status"
)

// Member is one data directory and the processes that come and go on it.
type Member struct {
	Name    string
	Bin     string
	Dir     string   // holds `data` and `log`
	Client  string   // host:port
	Peer    string   // host:port
	Initial string   // --initial-cluster; empty: it alone
	State   string   // --initial-cluster-state
	Flags   []string // of every start
	Inside  []string // what the command line begins with, to start in a namespace
	Conn    *grpc.ClientConn

	cmd     *exec.Cmd
	exited  chan struct{}
	logFrom int64 // where the log of the last start begins
}

// NewMember gives a lone member its ports, on loopback.
func NewMember(name, bin, dir string) (*Member, error) {
	m := &Member{Name: name, Bin: bin, Dir: dir, State: "new"}
	for _, address := range []*string{&m.Client, &m.Peer} {
		port, err := FreePort()
		if err != nil {
			return nil, err
		}
		*address = fmt.Sprintf("127.0.0.1:%d", port)
	}
	return m, nil
}

func (m *Member) Data() string    { return filepath.Join(m.Dir, "data") }
func (m *Member) PeerURL() string { return "http://" + m.Peer }
func (m *Member) logFile() string { return filepath.Join(m.Dir, "log") }

// DialOptions allow replies of any size.
func DialOptions() []grpc.DialOption {
	return []grpc.DialOption{grpc.WithTransportCredentials(insecure.NewCredentials()),
		grpc.WithDefaultCallOptions(grpc.MaxCallRecvMsgSize(1 << 30))}
}

func (m *Member) arguments() []string {
	initial := m.Initial
	if initial == "" {
		initial = m.Name + "=" + m.PeerURL()
	}
	args := append(append([]string{}, m.Inside...), m.Bin, "--name", m.Name, "--data-dir", m.Data(),
		"--listen-client-urls", "http://"+m.Client, "--advertise-client-urls", "http://"+m.Client,
		"--listen-peer-urls", m.PeerURL(), "--initial-advertise-peer-urls", m.PeerURL(),
		"--initial-cluster", initial, "--initial-cluster-state", m.State)
	return append(args, m.Flags...)
}

// Launch starts the process; `flags` are of this start only.
func (m *Member) Launch(flags ...string) error {
	if err := os.MkdirAll(m.Dir, 0o755); err != nil {
		return err
	}
	log, err := os.OpenFile(m.logFile(), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o644)
	if err != nil {
		return err
	}
	defer log.Close()
	if info, err := log.Stat(); err == nil {
		m.logFrom = info.Size()
	}
	args := append(m.arguments(), flags...)
	cmd := exec.Command(args[0], args[1:]...)
	cmd.Stdout, cmd.Stderr = log, log
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	if err := cmd.Start(); err != nil {
		return err
	}
	exited := make(chan struct{})
	m.cmd, m.exited = cmd, exited
	go func() {
		_ = cmd.Wait()
		close(exited)
	}()
	m.Close()
	m.Conn, err = grpc.NewClient(m.Client, DialOptions()...)
	return err
}

// Close ends the connection, not the process.
func (m *Member) Close() {
	if m.Conn != nil {
		m.Conn.Close()
		m.Conn = nil
	}
}

// Ready waits until the member answers a linearizable read.
func (m *Member) Ready(limit time.Duration) error {
	for deadline := time.Now().Add(limit); ; {
		ctx, cancel := context.WithTimeout(context.Background(), time.Second)
		_, err := pb.NewKVClient(m.Conn).Range(ctx, &pb.RangeRequest{Key: []byte("ready")})
		cancel()
		if err == nil || status.Code(err) == codes.InvalidArgument { // with auth on it wants a user
			return nil
		}
		if !m.Running() {
			return fmt.Errorf("%s ended while starting:\n%s", m.Name, m.Tail(15))
		}
		if time.Now().After(deadline) {
			return fmt.Errorf("%s does not serve after %v: %v\n%s", m.Name, limit, err, m.Tail(15))
		}
		time.Sleep(5 * time.Millisecond)
		m.Conn.ResetConnectBackoff()
	}
}

func (m *Member) Running() bool {
	if m.cmd == nil {
		return false
	}
	select {
	case <-m.exited:
		return false
	default:
		return true
	}
}

// Exited is closed when the process of the last start has ended.
func (m *Member) Exited() <-chan struct{} { return m.exited }
func (m *Member) ExitCode() int           { return m.cmd.ProcessState.ExitCode() }
func (m *Member) Pid() int                { return m.cmd.Process.Pid }

func (m *Member) Signal(signal syscall.Signal) error { return m.cmd.Process.Signal(signal) }

// Kill is SIGKILL, and waits. It is an error when the process had ended by itself.
func (m *Member) Kill() error {
	defer m.Close()
	if m.cmd == nil {
		return nil
	}
	if !m.Running() {
		return fmt.Errorf("%s ended by itself, exit code %d:\n%s", m.Name, m.ExitCode(), m.Tail(15))
	}
	_ = m.cmd.Process.Kill()
	<-m.exited
	return nil
}

// Stop is SIGTERM, and waits; a process that has not ended by then is killed, which is an error.
func (m *Member) Stop(limit time.Duration) error {
	defer m.Close()
	if err := m.Signal(syscall.SIGTERM); err != nil {
		return err
	}
	select {
	case <-m.exited:
	case <-time.After(limit):
		_ = m.cmd.Process.Kill()
		<-m.exited
		return fmt.Errorf("%s did not end within %v of SIGTERM:\n%s", m.Name, limit, m.Tail(15))
	}
	if code := m.ExitCode(); code != 0 {
		return fmt.Errorf("%s ended with exit code %d after SIGTERM:\n%s", m.Name, code, m.Tail(15))
	}
	return nil
}

// Output is what the process of the last start printed.
func (m *Member) Output() string {
	text, err := os.ReadFile(m.logFile())
	if err != nil {
		return err.Error()
	}
	return string(text[min(int64(len(text)), m.logFrom):])
}

// Tail is the end of Output, each line cut.
func (m *Member) Tail(lines int) string {
	const columns = 240
	all := strings.Split(strings.TrimRight(m.Output(), "\n"), "\n")
	all = all[max(0, len(all)-lines):]
	for i, line := range all {
		if len(line) > columns {
			all[i] = line[:columns] + "..."
		}
	}
	return strings.Join(all, "\n")
}

// Status asks the member itself.
func (m *Member) Status(ctx context.Context) (*pb.StatusResponse, error) {
	if m.Conn == nil {
		return nil, fmt.Errorf("%s is not running", m.Name)
	}
	return pb.NewMaintenanceClient(m.Conn).Status(ctx, &pb.StatusRequest{})
}
