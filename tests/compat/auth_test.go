package compat

import (
	"context"
	"testing"

	"go.etcd.io/etcd/api/v3/authpb"
	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"
	"google.golang.org/protobuf/proto"
)

func failed(code codes.Code, text string) *failure { return &failure{code, "etcdserver: " + text} }

// as makes one call with the token that each server gave that user; "" sends none.
func (p *pair) as(t *testing.T, user string, tokens map[*server]map[string]string, steps []step) {
	t.Helper()
	for i, c := range steps {
		peer, subject := together(p, func(s *server) reply {
			ctx, cancel := context.WithTimeout(t.Context(), callTimeout)
			defer cancel()
			if user != "" {
				ctx = metadata.AppendToOutgoingContext(ctx, "token", tokens[s][user])
			}
			return callWith(ctx, s, c.request)
		})
		want := reply{}
		if c.want != nil {
			want = reply{code: c.want.code, text: c.want.text}
		}
		if peer.code != want.code || peer.text != want.text {
			t.Errorf("as %q, step %d, %s: the peer itself answers %v", user, i, c.why, peer)
		}
		if !agree(c.request, peer, subject) {
			t.Errorf("as %q, step %d, %s: %T{%v}\n etcd %v\nraftd %v", user, i, c.why, c.request, c.request, peer, subject)
		}
	}
}

func TestAuth(t *testing.T) {
	p := newPair(t)
	exists := func(what string) *failure { return failed(codes.FailedPrecondition, what) }
	denied := failed(codes.PermissionDenied, "permission denied")
	user := func(name, password string) proto.Message {
		return &pb.AuthUserAddRequest{Name: name, Password: password, Options: &authpb.UserAddOptions{}}
	}
	allow := func(role string, kind authpb.Permission_Type, key, end string) proto.Message {
		return &pb.AuthRoleGrantPermissionRequest{Name: role,
			Perm: &authpb.Permission{PermType: kind, Key: []byte(key), RangeEnd: []byte(end)}}
	}
	login := func(name, password string) proto.Message {
		return &pb.AuthenticateRequest{Name: name, Password: password}
	}
	p.run(t, []step{
		{"off at first", &pb.AuthStatusRequest{}, nil},
		{"needs root", &pb.AuthEnableRequest{}, exists("root user does not exist")},
		{"no login while off", login("root", "pw"), exists("authentication is not enabled")},
		{"root", user("root", "pw"), nil},
		{"again", user("root", "pw"), exists("user name already exists")},
		{"needs its role", &pb.AuthEnableRequest{}, exists("root user does not have root role")},
		{"a user without a name", user("", "pw"), failed(codes.InvalidArgument, "user name is empty")},
		{"role root", &pb.AuthRoleAddRequest{Name: "root"}, nil},
		{"again", &pb.AuthRoleAddRequest{Name: "root"}, exists("role name already exists")},
		{"a role without a name", &pb.AuthRoleAddRequest{}, failed(codes.InvalidArgument, "role name is empty")},
		{"root to root", &pb.AuthUserGrantRoleRequest{User: "root", Role: "root"}, nil},
		{"a reader", user("reader", "r"), nil},
		{"a writer", user("writer", "w"), nil},
		{"", &pb.AuthRoleAddRequest{Name: "reading"}, nil},
		{"", &pb.AuthRoleAddRequest{Name: "writing"}, nil},
		{"grant to nobody", &pb.AuthUserGrantRoleRequest{User: "none", Role: "reading"}, exists("user name not found")},
		{"grant of nothing", &pb.AuthUserGrantRoleRequest{User: "reader", Role: "none"}, exists("role name not found")},
		{"", &pb.AuthUserGrantRoleRequest{User: "reader", Role: "reading"}, nil},
		{"", &pb.AuthUserGrantRoleRequest{User: "writer", Role: "writing"}, nil},
		{"a permission", allow("reading", authpb.Permission_READ, "a", "n"), nil},
		{"", allow("writing", authpb.Permission_WRITE, "a", "n"), nil},
		{"one key both ways", allow("writing", authpb.Permission_READWRITE, "both", ""), nil},
		{"no permission given", &pb.AuthRoleGrantPermissionRequest{Name: "reading"}, failed(codes.InvalidArgument, "permission not given")},
		{"inverted", allow("reading", authpb.Permission_READ, "n", "a"), failed(codes.InvalidArgument, "invalid auth management")},
		{"of a role nobody has", allow("none", authpb.Permission_READ, "n", ""), exists("role name not found")},
		{"revoke what was not granted", &pb.AuthRoleRevokePermissionRequest{Role: "reading", Key: []byte("q")}, exists("permission is not granted to the role")},
		{"revoke a role not held", &pb.AuthUserRevokeRoleRequest{Name: "reader", Role: "writing"}, exists("role is not granted to the user")},
		{"users", &pb.AuthUserListRequest{}, nil},
		{"roles", &pb.AuthRoleListRequest{}, nil},
		{"of a user", &pb.AuthUserGetRequest{Name: "reader"}, nil},
		{"of nobody", &pb.AuthUserGetRequest{Name: "none"}, exists("user name not found")},
		{"of a role", &pb.AuthRoleGetRequest{Role: "writing"}, nil},
		{"a key from before", put("both", "1"), nil},
		{"on", &pb.AuthEnableRequest{}, nil},
		{"and its revision", &pb.AuthStatusRequest{}, nil},
		{"no token", get("a"), failed(codes.InvalidArgument, "user name is empty")},
		{"a wrong password", login("root", "no"), failed(codes.InvalidArgument, "authentication failed, invalid user ID or password")},
		{"nobody", login("none", "no"), failed(codes.InvalidArgument, "authentication failed, invalid user ID or password")},
	})
	tokens := map[*server]map[string]string{}
	for _, s := range p.both() {
		tokens[s] = map[string]string{"wrong": "nonsense.1"}
		for name, password := range map[string]string{"root": "pw", "reader": "r", "writer": "w"} {
			r, err := pb.NewAuthClient(s.Conn).Authenticate(t.Context(), &pb.AuthenticateRequest{Name: name, Password: password})
			if err != nil || r.Token == "" {
				t.Fatalf("%s: login of %s: %v %v", s.name, name, r, err)
			}
			tokens[s][name] = r.Token
		}
	}
	p.as(t, "wrong", tokens, []step{{"an unknown token", get("a"), failed(codes.Unauthenticated, "invalid auth token")}})
	p.as(t, "writer", tokens, []step{
		{"may write", put("a", "1"), nil},
		{"prev_kv needs reading", &pb.PutRequest{Key: []byte("a"), PrevKv: true}, denied},
		{"both ways", &pb.PutRequest{Key: []byte("both"), PrevKv: true}, nil},
		{"outside", put("z", "1"), denied},
		{"reading", get("a"), denied},
		{"delete", del("a", ""), nil},
		{"delete with prev_kv", &pb.DeleteRangeRequest{Key: []byte("a"), PrevKv: true}, denied},
		{"delete beyond", del("a", "z"), denied},
		{"txn: both branches count", &pb.TxnRequest{Success: ops(put("a", "2")), Failure: ops(put("z", "1"))}, denied},
		{"txn: compares need reading", when(compareValue("a", pb.Compare_EQUAL, "")), denied},
		{"txn: nested", then(then(put("z", "1"))), denied},
		{"txn: allowed", then(put("b", "2")), nil},
		{"administration", &pb.AuthUserAddRequest{Name: "x", Password: "x"}, denied},
		{"compaction", compact(1), denied},
		{"itself", &pb.AuthUserGetRequest{Name: "writer"}, nil},
		{"another", &pb.AuthUserGetRequest{Name: "reader"}, denied},
		{"its role", &pb.AuthRoleGetRequest{Role: "writing"}, nil},
		{"another role", &pb.AuthRoleGetRequest{Role: "reading"}, denied},
	})
	p.as(t, "reader", tokens, []step{
		{"may read", get("b"), nil},
		{"an interval inside", span("b", "n"), nil},
		{"an interval beyond", span("b", "o"), denied},
		{"everything", all(), denied},
		{"serializable", with(get("z"), func(r *pb.RangeRequest) { r.Serializable = true }), denied},
		{"writing", put("b", "1"), denied},
		{"txn of reads", then(get("b"), span("a", "c")), nil},
	})
	p.as(t, "root", tokens, []step{
		{"everything", all(), nil},
		{"root stays", &pb.AuthUserDeleteRequest{Name: "root"}, failed(codes.InvalidArgument, "invalid auth management")},
		{"with its role", &pb.AuthUserRevokeRoleRequest{Name: "root", Role: "root"}, failed(codes.InvalidArgument, "invalid auth management")},
		{"a new password", &pb.AuthUserChangePasswordRequest{Name: "reader", Password: "r2"}, nil},
		{"a role goes", &pb.AuthRoleDeleteRequest{Role: "reading"}, nil},
		{"and its users lose it", &pb.AuthUserGetRequest{Name: "reader"}, nil},
		{"a user goes", &pb.AuthUserDeleteRequest{Name: "writer"}, nil},
	})
	p.as(t, "reader", tokens, []step{{"its token is gone", get("b"), failed(codes.Unauthenticated, "invalid auth token")}})
	p.crash()
	for _, s := range p.both() {
		r, err := pb.NewAuthClient(s.Conn).Authenticate(t.Context(), &pb.AuthenticateRequest{Name: "root", Password: "pw"})
		if err != nil {
			t.Fatalf("%s: login after a crash: %v", s.name, err)
		}
		tokens[s]["root"] = r.Token
	}
	p.as(t, "root", tokens, []step{
		{"all is there after a crash", all(), nil},
		{"users", &pb.AuthUserListRequest{}, nil},
		{"roles", &pb.AuthRoleListRequest{}, nil},
		{"off", &pb.AuthDisableRequest{}, nil},
	})
	p.run(t, []step{{"no token is needed", all(), nil}, {"", &pb.AuthStatusRequest{}, nil}})
}
