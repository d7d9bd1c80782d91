package series

import (
	"cmp"
	"context"
	"fmt"
	"io"
	"slices"
	"strconv"
	"strings"
	"sync"

	"mlaas.dev/mlaas/blob"
	"mlaas.dev/mlaas/store"
)

// Objects is a place for small objects by key. What Put has returned for is
// durable, and is there for every Get and List that begins after that: S3
// promises so.
type Objects interface {
	// Put stores data under key, in place of what is there.
	Put(ctx context.Context, key string, data []byte) error

	// Get returns what is under key, or mlaas.ErrNotFound.
	Get(ctx context.Context, key string) ([]byte, error)

	// List returns what there is under keys that begin with prefix, by key.
	List(ctx context.Context, prefix string) ([]Object, error)

	// Delete removes keys. What is not there is removed already.
	Delete(ctx context.Context, keys ...string) error
}

// An Object is one that List has found.
type Object = blob.Object

// An objectName is what the key of an object of a shard says. No two owners of
// a shard, and no two attempts to put an object, use the same one.
type objectName struct {
	number int64
	opened int64 // the opening of the shard by which it was put
	before int64 // the number of the object that it follows: what is between them was not acknowledged
}

const objectsPrefix = "series/" // of the objects of all shards

func objectPrefix(shard string) string { return objectsPrefix + shard + "/seg/" }

func (n objectName) key(shard string) string {
	return fmt.Sprintf("%s%020d-%010d-%020d", objectPrefix(shard), n.number, n.opened, n.before)
}

func parseObject(key, shard string) (n objectName, ok bool) {
	rest, ok := strings.CutPrefix(key, objectPrefix(shard))
	parts := strings.Split(rest, "-")
	if !ok || len(parts) != 3 {
		return n, false
	}
	for i, to := range []*int64{&n.number, &n.opened, &n.before} {
		v, err := strconv.ParseInt(parts[i], 10, 64)
		if err != nil || v < 0 {
			return n, false
		}
		*to = v
	}
	return n, n.key(shard) == key
}

// chain tells the objects that count from those that do not, which are the
// ones that are sealed, that an owner put after the next one had begun, or that
// were put without an answer, so that their owner went on without them. Those
// that count come in order; lost says that one between them is not there.
//
// The newest object of the newest opening counts, and names the one that it
// follows, and so on down.
func chain(found []objectName, sh store.Shard) (count, rest []objectName, lost bool) {
	found = slices.SortedFunc(slices.Values(found), func(a, b objectName) int {
		return cmp.Or(cmp.Compare(b.number, a.number), cmp.Compare(b.opened, a.opened)) // newest first
	})
	valid := found[:0:0]
	for _, n := range found {
		if n.number <= sh.Sealed || n.opened < sh.Since && n.number >= sh.From {
			rest = append(rest, n)
		} else {
			valid = append(valid, n)
		}
	}
	var newest int64
	for _, n := range valid {
		newest = max(newest, n.opened)
	}
	var head *objectName // the last that counts
	for _, n := range valid {
		switch {
		case head == nil && n.opened < newest, head != nil && (n.number > head.before || n.opened > head.opened):
			rest = append(rest, n)
			continue
		case head != nil && n.number < head.before:
			lost = true // what head follows is not there
		}
		count = append(count, n)
		head = &n
	}
	lost = lost || head != nil && head.before > sh.Sealed
	slices.Reverse(count)
	return count, rest, lost
}

// pieces are the objects of one segment, held in memory until it is sealed.
type pieces struct {
	mu   sync.RWMutex
	list []object
	size int64
}

type object struct {
	name objectName
	at   int64 // where it begins
	data []byte
}

func (p *pieces) add(name objectName, data []byte) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.list = append(p.list, object{name, p.size, data})
	p.size += int64(len(data))
}

// names are the objects, oldest first.
func (p *pieces) names() []objectName {
	p.mu.RLock()
	defer p.mu.RUnlock()
	names := make([]objectName, len(p.list))
	for i, h := range p.list {
		names[i] = h.name
	}
	return names
}

// ReadAt reads from one object: no record is in two.
func (p *pieces) ReadAt(b []byte, at int64) (int, error) {
	p.mu.RLock()
	defer p.mu.RUnlock()
	i, found := slices.BinarySearchFunc(p.list, at, func(h object, at int64) int { return cmp.Compare(h.at, at) })
	if !found {
		i--
	}
	if i < 0 || at-p.list[i].at > int64(len(p.list[i].data)) {
		return 0, io.EOF
	}
	n := copy(b, p.list[i].data[at-p.list[i].at:])
	if n < len(b) {
		return n, io.ErrUnexpectedEOF
	}
	return n, nil
}

// Close leaves the bytes to who still reads them.
func (p *pieces) Close() error { return nil }
