package kube

import (
	"bytes"
	"encoding/binary"
	"encoding/json"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
)

// An API server tells all of a pod with each change of it, most of which we have
// said ourselves. What look and a feed do not read is taken out of the message
// before it is decoded: that is where the time of a feed goes.

// fields are fields of a protobuf message by their numbers; one without fields of
// its own is meant as a whole.
type fields map[uint64]fields

// The numbers are those of generated.proto of k8s.io/api/core/v1 and
// k8s.io/apimachinery/pkg/apis/meta/v1, which never change.
var (
	usedOfContainer = fields{
		2: nil,      // image
		8: {1: nil}, // resources: limits
	}
	usedOfStatus = fields{ // of a container
		1: nil, // name
		2: nil, // state
	}
	used = fields{
		1: { // metadata
			1:  nil, // name
			3:  nil, // namespace
			6:  nil, // resourceVersion
			9:  nil, // deletionTimestamp
			11: nil, // labels
			12: nil, // annotations: by one a watch says that it has told all there is
		},
		2: { // spec
			2:  usedOfContainer, // containers
			10: nil,             // nodeName
			18: nil,             // affinity
			20: usedOfContainer, // initContainers
		},
		3: { // status
			1:  nil,                              // phase
			2:  {1: nil, 2: nil, 5: nil, 6: nil}, // conditions: type, status, reason, message
			3:  nil,                              // message
			4:  nil,                              // reason
			8:  usedOfStatus,                     // containerStatuses
			10: usedOfStatus,                     // initContainerStatuses
		},
	}
)

// append appends these fields of a message to out; ok is false where it is none.
func (f fields) append(out, msg []byte) (_ []byte, ok bool) {
	for len(msg) > 0 {
		tag, n := binary.Uvarint(msg)
		if n <= 0 {
			return out, false
		}
		var value []byte // of a field that is a message or bytes
		size := n
		switch tag & 7 {
		case 0:
			_, m := binary.Uvarint(msg[n:])
			if m <= 0 {
				return out, false
			}
			size += m
		case 1:
			size += 8
		case 2:
			length, m := binary.Uvarint(msg[n:])
			if m <= 0 || length > uint64(len(msg)-n-m) {
				return out, false
			}
			n += m
			value = msg[n : n+int(length)]
			size = n + int(length)
		case 5:
			size += 4
		default:
			return out, false
		}
		if size > len(msg) {
			return out, false
		}
		switch of, there := f[tag>>3]; {
		case !there:
		case of == nil || value == nil:
			out = append(out, msg[:size]...)
		default:
			out = append(out, msg[:n]...)
			end := len(out)
			if out, ok = of.append(out, value); !ok {
				return out, false
			}
			relength(out[:end], len(out)-end)
		}
		msg = msg[size:]
	}
	return out, true
}

// relength writes another length over the one that b ends with, in as many bytes
// as that has. It is not longer.
func relength(b []byte, length int) {
	first := len(b) - 1
	for first > 0 && b[first-1] >= 0x80 {
		first--
	}
	for i := first; i < len(b); i++ {
		b[i] = byte(length)&0x7f | 0x80
		length >>= 7
	}
	b[len(b)-1] &= 0x7f
}

// protobufMark begins what API servers say in protobuf; a runtime.Unknown
// follows, of which the first field says that it is a pod.
const (
	protobufMark = "k8s\x00"
	podMark      = protobufMark + "\x0a\x09\x0a\x02v1\x12\x03Pod"
)

var usedOfPod = fields{1: nil, 2: used} // the type, and raw

// slim is an object in protobuf without what is not used, if it is a pod.
func slim(data []byte) []byte {
	if !bytes.HasPrefix(data, []byte(podMark)) {
		return data
	}
	out := append(make([]byte, 0, len(data)/2), protobufMark...)
	if out, ok := usedOfPod.append(out, data[len(protobufMark):]); ok {
		return out
	}
	return data
}

// slimming decodes pods without what is not used.
type slimming struct{ runtime.NegotiatedSerializer }

func (s slimming) DecoderToVersion(d runtime.Decoder, gv runtime.GroupVersioner) runtime.Decoder {
	return slimDecoder{s.NegotiatedSerializer.DecoderToVersion(d, gv)}
}

type slimDecoder struct{ runtime.Decoder }

func (d slimDecoder) Decode(data []byte, defaults *schema.GroupVersionKind, into runtime.Object) (runtime.Object, *schema.GroupVersionKind, error) {
	return d.Decoder.Decode(slim(data), defaults, into)
}

// bareMetadata asks for the metadata of an object alone, where the API server
// would answer with all of it.
const bareMetadata = "application/vnd.kubernetes.protobuf;as=PartialObjectMetadata;g=meta.k8s.io;v=v1,application/vnd.kubernetes.protobuf,application/json"

// metadataOf reads what was answered to that. The metadata of a whole object is
// where that of a partial one is.
func metadataOf(data []byte) (metav1.ObjectMeta, error) {
	var m metav1.PartialObjectMetadata
	body, ok := bytes.CutPrefix(data, []byte(protobufMark))
	if !ok {
		err := json.Unmarshal(data, &m)
		return m.ObjectMeta, err
	}
	var u runtime.Unknown
	err := u.Unmarshal(body)
	if err == nil {
		err = m.Unmarshal(u.Raw)
	}
	return m.ObjectMeta, err
}
