// Package redisstore keeps records and messages in a Redis server, for many
// processes at once.
//
// What must be atomic is a Lua script: it looks at everything first and then
// writes, because Redis undoes nothing. Commits of many callers travel in one
// script, each still in full or not at all. Every group has a number that the
// script remembers with its answer, so that a group whose answer was lost is
// sent again and answered as it was the first time.
//
// Nobody polls: each script writes who has news into a Stream, and a process
// waits in one blocking read of it.
package redisstore

import (
	"cmp"
	"context"
	"crypto/rand"
	_ "embed"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/redis/go-redis/v9"
	"github.com/redis/go-redis/v9/maintnotifications"

	"mlaas.dev/mlaas"
	"mlaas.dev/mlaas/store"
)

// Options are what a store needs besides its address. The zero value is right
// for production.
type Options struct {
	Log  *slog.Logger // nil: slog.Default()
	Gone int          // deletions that Watch can look back over; 0: 100,000

	dead time.Duration // for tests; 0: deadTime
}

// A Store is a store.Driver.
type Store struct {
	address
	db    *redis.Client
	log   *slog.Logger
	keep  int
	conns conns

	writer writer
	bells  bells
	last   string        // of the feed, for the goroutine that reads it
	client string        // who claims
	dead   time.Duration // without a heartbeat
	turn   atomic.Int64  // counts claims

	orphaned atomic.Bool // a connection was made that could not be told to which history it belongs
	commits  atomic.Int64
	syncs    atomic.Int64

	closing chan struct{}
	ended   context.Context // done after Close
	end     context.CancelFunc
	once    sync.Once
	all     sync.WaitGroup // the goroutines born in Open, but the lanes
	beats   sync.WaitGroup // and the one that beats
}

var _ store.Driver = (*Store)(nil)

const (
	patience    = 4500 * time.Millisecond // for an answer, with all that is tried to get one
	onePatience = 3 * time.Second         // for one answer on one connection
	dialTime    = time.Second
	firstPause  = 10 * time.Millisecond // before the next try; doubles
	longPause   = 300 * time.Millisecond
	confirmTime = time.Second      // for replicas to confirm a group, each time it is asked
	deadTime    = 15 * time.Second // without a heartbeat, a process is gone
	pageBytes   = 8 << 20          // read from the server at once
)

// The scripts, each with its own comment.
var (
	//go:embed commit.lua
	commitText string
	//go:embed next.lua
	nextText string
	//go:embed list.lua
	listText string
	//go:embed changes.lua
	changesText string
	//go:embed stats.lua
	statsText string
	//go:embed release.lua
	releaseText string
	//go:embed adopt.lua
	adoptText string
)

// Open opens the store at a URL:
//
//	redis://:PASSWORD@HOST:6379/NAME
//	rediss://USER:PASSWORD@HOST:6379/NAME
//	unix://:PASSWORD@/run/redis.sock?name=NAME
//	redis+sentinel://:PASSWORD@HOST:26379,HOST:26379/MASTER?name=NAME
//
// NAME keeps platforms of one server apart; it is "mlaas" if left out. With
// ?wait=N a commit is acknowledged when N replicas have it; behind Sentinels N
// is 1 if not said. The server is refused when its settings could lose what
// was acknowledged; ?trust=settings is for servers that do not show theirs.
func Open(ctx context.Context, url string, o Options) (*Store, error) {
	quiet()
	a, err := parse(url)
	if err != nil {
		return nil, err
	}
	s := &Store{
		address: a,
		log:     cmp.Or(o.Log, slog.Default()),
		keep:    cmp.Or(o.Gone, 100_000),
		client:  rand.Text(),
		dead:    cmp.Or(o.dead, deadTime),
		closing: make(chan struct{}),
	}
	s.ended, s.end = context.WithCancel(context.Background())
	s.db = s.dial()
	if err := s.start(ctx); err != nil {
		s.end()
		s.db.Close()
		return nil, err
	}
	s.writer.begin(s)
	s.all.Go(s.follow)
	s.beats.Go(s.beat)
	return s, nil
}

// quiet keeps the client from writing to the standard error by itself: what it
// has to say comes back as errors. It is one logger for the process.
var quiet = sync.OnceFunc(func() { redis.SetLogger(silence{}) })

type silence struct{}

func (silence) Printf(context.Context, string, ...any) {}

func (s *Store) dial() *redis.Client {
	dialer := &net.Dialer{Timeout: dialTime, KeepAliveConfig: net.KeepAliveConfig{Enable: true, Idle: 5 * time.Second, Interval: time.Second, Count: 3}}
	dial := func(ctx context.Context, network, addr string) (net.Conn, error) {
		c, err := dialer.DialContext(ctx, network, addr)
		if err != nil {
			return nil, err
		}
		return s.conns.add(c), nil
	}
	secured := s.secured(dial)
	plain := &maintnotifications.Config{Mode: maintnotifications.ModeDisabled}
	if s.master != "" {
		return redis.NewFailoverClient(&redis.FailoverOptions{
			MasterName: s.master, SentinelAddrs: s.hosts,
			Username: s.user, Password: s.password, SentinelUsername: s.sentinelUser, SentinelPassword: s.sentinelPassword,
			Dialer: secured, OnConnect: s.greet, Protocol: 2, MaxRetries: -1, DialerRetries: 1,
			DialTimeout: dialTime, ReadTimeout: onePatience, WriteTimeout: onePatience, ContextTimeoutEnabled: true,
			PoolSize: 64, DisableIdentity: true,
		})
	}
	return redis.NewClient(&redis.Options{
		Network: s.network, Addr: s.hosts[0], Username: s.user, Password: s.password,
		Dialer: secured, OnConnect: s.greet, Protocol: 2, MaxRetries: -1, DialerRetries: 1,
		DialTimeout: dialTime, ReadTimeout: onePatience, WriteTimeout: onePatience, ContextTimeoutEnabled: true,
		PoolSize: 64, DisableIdentity: true, MaintNotificationsConfig: plain,
	})
}

// start makes sure that the server is there and safe, and finds out from where
// to follow the feed.
func (s *Store) start(ctx context.Context) error {
	return s.try(ctx, func(ctx context.Context, _ bool) (err error) {
		s.last, err = s.lastNews(ctx)
		return err
	})
}

// Close gives back what this store holds, and ends what Open began. A second
// Close does nothing.
func (s *Store) Close() error {
	s.once.Do(func() {
		close(s.closing)
		s.writer.close()
		s.writer.wait()
		s.beats.Wait()
		s.giveBack()
		s.end()
		s.db.Close()
		s.all.Wait()
	})
	return nil
}

func (s *Store) closed() error {
	return fmt.Errorf("the store was closed: %w", mlaas.ErrUnavailable)
}

// try calls do until it is answered, for a few seconds. again says that a
// former try may have been done without its answer having come.
func (s *Store) try(ctx context.Context, do func(ctx context.Context, again bool) error) error {
	until := time.Now().Add(patience)
	pause, again := firstPause, false
	for {
		if err := ctx.Err(); err != nil {
			return err
		}
		select {
		case <-s.ended.Done():
			return s.closed()
		default:
		}
		one, cancel := context.WithTimeout(ctx, min(onePatience, time.Until(until)))
		err := do(one, again)
		cancel()
		if err == nil || !passes(err) {
			return s.explain(err)
		}
		if ctx.Err() != nil {
			return ctx.Err()
		}
		if !refused(err) {
			again = true
			s.conns.suspect(err)
		}
		if time.Until(until) < pause {
			return s.explain(err)
		}
		timer := time.NewTimer(pause)
		select {
		case <-timer.C:
		case <-ctx.Done():
		case <-s.ended.Done():
		}
		timer.Stop()
		pause = min(2*pause, longPause)
	}
}

// ask runs a script and returns its answer. It may run twice.
func (s *Store) ask(ctx context.Context, script *redis.Script, args ...any) (answer []any, err error) {
	select {
	case <-s.closing:
		return nil, s.closed()
	default:
	}
	err = s.try(ctx, func(ctx context.Context, _ bool) (err error) {
		answer, err = script.Run(ctx, s.db, nil, args...).Slice()
		return err
	})
	return answer, err
}

// Get returns one row, or mlaas.ErrNotFound.
func (s *Store) Get(ctx context.Context, key store.Key) (row store.Row, err error) {
	select {
	case <-s.closing:
		return row, s.closed()
	default:
	}
	err = s.try(ctx, func(ctx context.Context, _ bool) error {
		value, err := s.db.Get(ctx, s.rowName(key)).Result()
		if errors.Is(err, redis.Nil) {
			return fmt.Errorf("%s: %w", key, mlaas.ErrNotFound)
		}
		if err == nil {
			row, err = readRow(key, value)
		}
		return err
	})
	return row, err
}

// A row is the text "REV LENGTH\nINDEX" and its data; its index is each value
// after its length.

func writeRow(r store.Row, index string) []byte {
	value := make([]byte, 0, 32+len(index)+len(r.Data))
	value = strconv.AppendInt(value, r.Rev+1, 10)
	value = append(value, ' ')
	value = strconv.AppendInt(value, int64(len(index)), 10)
	value = append(value, '\n')
	value = append(value, index...)
	return append(value, r.Data...)
}

func readRow(key store.Key, value string) (row store.Row, err error) {
	head, rest, _ := strings.Cut(value, "\n")
	rev, length, _ := strings.Cut(head, " ")
	row.Key = key
	row.Rev, err = strconv.ParseInt(rev, 10, 64)
	n, err2 := strconv.Atoi(length)
	if err != nil || err2 != nil || n < 0 || n > len(rest) {
		return row, fmt.Errorf("%s is not what this program wrote: %w", key, mlaas.ErrInternal)
	}
	row.Index = indexOf(rest[:n])
	if data := rest[n:]; data != "" {
		row.Data = []byte(data)
	}
	return row, nil
}

func indexText(index []string) string {
	if len(index) == 0 {
		return ""
	}
	var text strings.Builder
	for _, v := range index {
		text.WriteString(strconv.Itoa(len(v)))
		text.WriteByte(':')
		text.WriteString(v)
	}
	return text.String()
}

func indexOf(text string) (index []string) {
	for text != "" {
		length, rest, _ := strings.Cut(text, ":")
		n, err := strconv.Atoi(length)
		if err != nil || n > len(rest) {
			return index
		}
		index = append(index, rest[:n])
		text = rest[n:]
	}
	return index
}

// member is a row in the sets of its kind: they sort by tenant, then id.
func member(k store.Key) string { return string(k.Tenant) + "\x00" + k.ID }

func keyOf(kind, member string) store.Key {
	tenant, id, _ := strings.Cut(member, "\x00")
	return store.Key{Kind: kind, Tenant: mlaas.Tenant(tenant), ID: id}
}

func (s *Store) rowName(k store.Key) string { return s.prefix + "r:" + k.Kind + "\x00" + member(k) }

// List returns a page of rows and the cursor of the next.
func (s *Store) List(ctx context.Context, q store.Query) (rows []store.Row, next store.Key, err error) {
	limit := cmp.Or(max(q.Limit, 0), 1000)
	low, high, prefix := bounds(q)
	reverse, index := "", ""
	if q.Reverse {
		reverse = "rev"
	}
	if q.Index != "" {
		index = "=" + q.Index
	}
	for len(rows) < limit {
		from, to := low, high
		if q.Reverse {
			from, to = high, low
		}
		answer, err := s.ask(ctx, s.scripts.list, s.prefix, q.Kind, index, from, to, reverse, min(limit-len(rows), 1000), prefix, pageBytes)
		if err != nil {
			return nil, store.Key{}, err
		}
		for i := 1; i+1 < len(answer); i += 2 {
			row, err := readRow(keyOf(q.Kind, text(answer[i])), text(answer[i+1]))
			if err != nil {
				return nil, store.Key{}, err
			}
			rows = append(rows, row)
		}
		last := text(answer[0])
		if last == "" {
			return rows, store.Key{}, nil
		}
		if q.Reverse {
			high = "(" + last
		} else {
			low = "(" + last
		}
	}
	// There may be no other that has the prefix; then the next page is empty.
	if prefix != "" {
		q.After, q.Limit = rows[len(rows)-1].Key, 1
		if more, _, err := s.List(ctx, q); err != nil || len(more) == 0 {
			return rows, store.Key{}, err
		}
	}
	return rows, rows[len(rows)-1].Key, nil
}

// bounds are the least and the greatest member that q asks for, as Redis
// writes them, and a prefix of ids that they do not cover.
func bounds(q store.Query) (low, high, prefix string) {
	low, high = "-", "+"
	switch {
	case q.Tenant != "":
		begin := string(q.Tenant) + "\x00" + q.Prefix
		low, high = "["+begin, "("+after(begin)
	case q.Prefix != "":
		prefix = q.Prefix
	}
	if q.After == (store.Key{}) {
		return low, high, prefix
	}
	at := member(q.After)
	if q.Reverse && (high == "+" || at < high[1:]) {
		high = "(" + at
	}
	if !q.Reverse && (low == "-" || at >= low[1:]) {
		low = "(" + at
	}
	return low, high, prefix
}

// after is the smallest text that is larger than every text with this prefix,
// which has a byte that is not 0xff.
func after(prefix string) string {
	b := []byte(prefix)
	for b[len(b)-1] == 0xff {
		b = b[:len(b)-1]
	}
	b[len(b)-1]++
	return string(b)
}

// Stats tells how the store is doing.
func (s *Store) Stats(ctx context.Context) (stats store.Stats, err error) {
	answer, err := s.ask(ctx, s.scripts.stats, s.prefix)
	if err != nil {
		return stats, err
	}
	stats = store.Stats{
		Records: number(answer[0]), Waiting: number(answer[1]), Parked: number(answer[2]),
		Oldest: time.Duration(number(answer[3])) * time.Microsecond, Seq: number(answer[4]),
		Commits: s.commits.Load(), Syncs: s.syncs.Load(),
	}
	err = s.try(ctx, func(ctx context.Context, _ bool) error {
		info, err := s.db.Info(ctx, "persistence").Result()
		if err == nil {
			size, _ := strconv.ParseInt(field(info, "aof_current_size"), 10, 64)
			stats.Size = mlaas.Bytes(size)
		}
		return err
	})
	return stats, err
}

// text and number read one part of an answer.
func text(v any) string {
	s, _ := v.(string)
	return s
}

func number(v any) int64 {
	switch v := v.(type) {
	case int64:
		return v
	case string:
		n, _ := strconv.ParseInt(v, 10, 64)
		return n
	}
	return 0
}

// conns are the connections that are open.
type conns struct {
	mu  sync.Mutex
	all map[*conn]bool
}

type conn struct {
	net.Conn
	of *conns
}

func (c *conns) add(nc net.Conn) net.Conn {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.all == nil {
		c.all = map[*conn]bool{}
	}
	added := &conn{nc, c}
	c.all[added] = true
	return added
}

func (c *conn) Close() error {
	c.of.mu.Lock()
	delete(c.of.all, c)
	c.of.mu.Unlock()
	return c.Conn.Close()
}

// SyscallConn lets the pool see whether the other end has closed.
func (c *conn) SyscallConn() (syscall.RawConn, error) {
	if sc, ok := c.Conn.(interface {
		SyscallConn() (syscall.RawConn, error)
	}); ok {
		return sc.SyscallConn()
	}
	return nil, errors.ErrUnsupported
}

// suspect closes every connection when one did not answer in time: whatever
// swallowed that one has swallowed the others, and each would cost its own
// wait.
func (c *conns) suspect(err error) {
	if ne, ok := errors.AsType[net.Error](err); ok && ne.Timeout() || errors.Is(err, context.DeadlineExceeded) {
		c.closeAll()
	}
}

func (c *conns) closeAll() {
	c.mu.Lock()
	all := c.all
	c.all = nil
	c.mu.Unlock()
	for one := range all {
		one.Conn.Close()
	}
}
