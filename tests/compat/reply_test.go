package compat

import (
	"context"
	"fmt"
	"io"
	"time"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/api/v3/mvccpb"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/encoding/prototext"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/reflect/protoregistry"
)

const callTimeout = 15 * time.Second

// reply is what one call gave: a message, or a status.
type reply struct {
	message proto.Message
	code    codes.Code
	text    string
}

func (r reply) String() string {
	if r.code != codes.OK {
		return fmt.Sprintf("%v %q", r.code, r.text)
	}
	return "{" + shorten(prototext.MarshalOptions{}.Format(r.message), 1500) + "}"
}

func equal(a, b reply) bool {
	return a.code == b.code && a.text == b.text && proto.Equal(a.message, b.message)
}

// call sends a request message to the method it belongs to.
func call(s *server, request proto.Message) reply {
	ctx, cancel := context.WithTimeout(context.Background(), callTimeout)
	defer cancel()
	return callWith(ctx, s, request)
}

// unaryMethods maps a request message to the one unary method of the API that takes it.
var unaryMethods = func() map[protoreflect.FullName]protoreflect.MethodDescriptor {
	methods := map[protoreflect.FullName]protoreflect.MethodDescriptor{}
	services := pb.File_rpc_proto.Services()
	for i := range services.Len() {
		for j := range services.Get(i).Methods().Len() {
			method := services.Get(i).Methods().Get(j)
			if !method.IsStreamingClient() && !method.IsStreamingServer() {
				methods[method.Input().FullName()] = method
			}
		}
	}
	return methods
}()

func callWith(ctx context.Context, s *server, request proto.Message, options ...grpc.CallOption) reply {
	r := invoke(ctx, s, request, options...)
	if r.code == codes.OK {
		neutralise(r.message.ProtoReflect())
	}
	return r
}

// invoke is callWith with identities and terms as they came.
func invoke(ctx context.Context, s *server, request proto.Message, options ...grpc.CallOption) reply {
	method, ok := unaryMethods[request.ProtoReflect().Descriptor().FullName()]
	if !ok {
		panic(fmt.Sprintf("no method for %T", request))
	}
	kind, err := protoregistry.GlobalTypes.FindMessageByName(method.Output().FullName())
	if err != nil {
		panic(err)
	}
	response := kind.New().Interface()
	path := fmt.Sprintf("/%s/%s", method.Parent().FullName(), method.Name())
	if err := s.Conn.Invoke(ctx, path, request, response, options...); err != nil {
		return settle(nil, err)
	}
	return reply{message: response}
}

// callStream runs RangeStream and concatenates its chunks. Their boundaries are free; only the
// last may carry header, more and count.
func callStream(s *server, request *pb.RangeRequest) reply {
	ctx, cancel := context.WithTimeout(context.Background(), callTimeout)
	defer cancel()
	stream, err := pb.NewKVClient(s.Conn).RangeStream(ctx, request)
	if err != nil {
		return settle(nil, err)
	}
	whole := &pb.RangeResponse{}
	for {
		chunk, err := stream.Recv()
		if err == io.EOF {
			return settle(whole, nil)
		}
		if err != nil {
			return settle(nil, err)
		}
		if whole.Header != nil || whole.Count != 0 || whole.More {
			return reply{code: codes.Internal, text: "a chunk follows the one that holds the header"}
		}
		proto.Merge(whole, chunk.RangeResponse)
	}
}

func settle(message proto.Message, err error) reply {
	if err != nil {
		s := status.Convert(err)
		return reply{code: s.Code(), text: s.Message()}
	}
	neutralise(message.ProtoReflect())
	return reply{message: message}
}

// neutralise replaces what must differ between two clusters by whether it is set: identities and
// the raft term. Everything else stays, also whether a header is there at all.
func neutralise(message protoreflect.Message) {
	if header, ok := message.Interface().(*pb.ResponseHeader); ok {
		header.ClusterId = min(header.ClusterId, 1)
		header.MemberId = min(header.MemberId, 1)
		header.RaftTerm = min(header.RaftTerm, 1)
		return
	}
	if hash, ok := message.Interface().(*pb.HashKVResponse); ok {
		hash.Hash = 0 // compared among members of one cluster only
	}
	message.Range(func(field protoreflect.FieldDescriptor, value protoreflect.Value) bool {
		switch {
		case field.Kind() != protoreflect.MessageKind:
		case field.IsList():
			for i := range value.List().Len() {
				neutralise(value.List().Get(i).Message())
			}
		default:
			neutralise(value.Message())
		}
		return true
	})
}

func headerOf(r reply) *pb.ResponseHeader {
	if r.code != codes.OK {
		return nil
	}
	with, ok := r.message.(interface{ GetHeader() *pb.ResponseHeader })
	if !ok {
		return nil
	}
	return with.GetHeader()
}

func sortValue(target pb.RangeRequest_SortTarget, kv *mvccpb.KeyValue) string {
	switch target {
	case pb.RangeRequest_VERSION:
		return fmt.Sprint(kv.Version)
	case pb.RangeRequest_CREATE:
		return fmt.Sprint(kv.CreateRevision)
	case pb.RangeRequest_MOD:
		return fmt.Sprint(kv.ModRevision)
	case pb.RangeRequest_VALUE:
		return string(kv.Value)
	default:
		return string(kv.Key)
	}
}

// sameButTies accepts two range replies that differ in the order of entries which the requested
// sort does not tell apart: stock etcd sorts with an unstable algorithm. Where a limit cuts
// through such a group, which of its entries come is free as well. keys_only hides values, so a
// sort by value is then compared by position only where keys agree.
func sameButTies(request *pb.RangeRequest, a, b *pb.RangeResponse) bool {
	if request.SortTarget == pb.RangeRequest_KEY || len(a.Kvs) != len(b.Kvs) {
		return false
	}
	x, y := proto.Clone(a).(*pb.RangeResponse), proto.Clone(b).(*pb.RangeResponse)
	left, right := x.Kvs, y.Kvs
	x.Kvs, y.Kvs = nil, nil
	if !proto.Equal(x, y) {
		return false
	}
	for start := 0; start < len(left); {
		end := start
		group := sortValue(request.SortTarget, left[start])
		members := map[string]*mvccpb.KeyValue{}
		for end < len(left) && sortValue(request.SortTarget, left[end]) == group {
			members[string(left[end].Key)] = left[end]
			end++
		}
		cut := x.More && end == len(left)
		for _, kv := range right[start:end] {
			twin, ok := members[string(kv.Key)]
			if sortValue(request.SortTarget, kv) != group || (!ok && !cut) ||
				(ok && !proto.Equal(twin, kv)) {
				return false
			}
		}
		start = end
	}
	return true
}

// fresherHash accepts a HashKV reply that is newer than what stock etcd answers: it remembers the
// hash that it took while compacting, and returns that with the compacted revision of before. For
// the same reason a Compact(0) leaves it with a hash "of revision 0", answered for ever after.
func fresherHash(request *pb.HashKVRequest, peer, subject *pb.HashKVResponse) bool {
	revision := request.Revision
	if revision == 0 {
		revision = subject.GetHeader().GetRevision()
	}
	return proto.Equal(peer.Header, subject.Header) && subject.HashRevision == revision &&
		subject.CompactRevision > peer.CompactRevision
}

// agree says whether the subject's reply is the peer's, with the two tolerances above.
func agree(request proto.Message, peer, subject reply) bool {
	if equal(peer, subject) {
		return true
	}
	if peer.code != codes.OK || subject.code != codes.OK {
		return false
	}
	switch r := request.(type) {
	case *pb.RangeRequest:
		return sameButTies(r, peer.message.(*pb.RangeResponse), subject.message.(*pb.RangeResponse))
	case *pb.HashKVRequest:
		return fresherHash(r, peer.message.(*pb.HashKVResponse), subject.message.(*pb.HashKVResponse))
	}
	return false
}

func shorten(text string, bytes int) string {
	if len(text) > bytes {
		return text[:bytes] + "..."
	}
	return text
}
