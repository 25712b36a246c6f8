package compat

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	_ "go.etcd.io/etcd/api/v3/etcdserverpb"
	_ "google.golang.org/grpc/health/grpc_health_v1"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protodesc"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/reflect/protoregistry"
	"google.golang.org/protobuf/types/descriptorpb"
)

// facts lists everything of a file that is on the wire or in JSON, one line each.
func facts(file *descriptorpb.FileDescriptorProto) map[string]string {
	found := map[string]string{}
	var messages func(prefix string, list []*descriptorpb.DescriptorProto)
	enums := func(prefix string, list []*descriptorpb.EnumDescriptorProto) {
		for _, e := range list {
			for _, value := range e.Value {
				found[prefix+e.GetName()+"."+value.GetName()] = fmt.Sprint(value.GetNumber())
			}
		}
	}
	messages = func(prefix string, list []*descriptorpb.DescriptorProto) {
		for _, m := range list {
			name := prefix + m.GetName()
			found[name] = "message"
			for _, f := range m.Field {
				oneof := ""
				if f.OneofIndex != nil {
					oneof = m.OneofDecl[*f.OneofIndex].GetName()
				}
				found[name+"."+f.GetName()] = fmt.Sprint(f.GetNumber(), f.GetLabel(), f.GetType(), f.GetTypeName(), oneof)
			}
			enums(name+".", m.EnumType)
			messages(name+".", m.NestedType)
		}
	}
	prefix := file.GetPackage() + "."
	messages(prefix, file.MessageType)
	enums(prefix, file.EnumType)
	for _, s := range file.Service {
		for _, m := range s.Method {
			found[prefix+s.GetName()+"/"+m.GetName()] = fmt.Sprint(m.GetInputType(), m.GetOutputType(),
				m.GetClientStreaming(), m.GetServerStreaming())
		}
	}
	return found
}

// Our .proto files against the published ones: every service, message, field and enum value.
func TestSchema(t *testing.T) {
	set := filepath.Join(t.TempDir(), "set")
	out, err := exec.Command("protoc", "-I../..", "--descriptor_set_out="+set, "proto/rpc.proto",
		"proto/kv.proto", "proto/auth.proto", "proto/health.proto").CombinedOutput()
	if err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	bytes, err := os.ReadFile(set)
	if err != nil {
		t.Fatal(err)
	}
	var ours descriptorpb.FileDescriptorSet
	if err := proto.Unmarshal(bytes, &ours); err != nil {
		t.Fatal(err)
	}
	mine := map[string]string{}
	for _, file := range ours.File {
		for name, fact := range facts(file) {
			mine[name] = fact
		}
	}
	theirs := map[string]string{}
	packages := map[protoreflect.FullName]bool{"etcdserverpb": true, "mvccpb": true, "authpb": true, "grpc.health.v1": true}
	protoregistry.GlobalFiles.RangeFiles(func(file protoreflect.FileDescriptor) bool {
		switch filepath.Base(file.Path()) {
		case "raft_internal.proto", "etcdserver.proto": // etcd's own log, not its API
			return true
		}
		if packages[file.Package()] {
			for name, fact := range facts(protodesc.ToFileDescriptorProto(file)) {
				theirs[name] = fact
			}
		}
		return true
	})
	if len(mine) < 300 || len(theirs) < 300 {
		t.Fatalf("%d facts here and %d there: the comparison itself is broken", len(mine), len(theirs))
	}
	for name, fact := range mine {
		if theirs[name] != fact {
			t.Errorf("%s: %q, published: %q", name, fact, theirs[name])
		}
	}
	for name, fact := range theirs {
		// Listing services came to the health protocol later, and no etcd client uses it. The
		// downgrade message serves etcd's own tests.
		unused := strings.HasPrefix(name, "grpc.health.v1.HealthList") ||
			name == "grpc.health.v1.Health/List" ||
			strings.HasPrefix(name, "etcdserverpb.DowngradeVersionTestRequest")
		if _, ok := mine[name]; !ok && !unused {
			t.Errorf("missing: %s %s", name, fact)
		}
	}
}
