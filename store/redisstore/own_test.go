package redisstore

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"log/slog"
	"math/big"
	"net"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"go.uber.org/goleak"

	"mlaas.dev/mlaas"
	"mlaas.dev/mlaas/internal/redistest"
	"mlaas.dev/mlaas/store"
)

func row(id string, rev int64, data string) store.Row {
	return store.Row{Key: store.Key{Kind: "thing", ID: id}, Rev: rev, Data: []byte(data), Index: []string{"i"}}
}

func put(t *testing.T, s *Store, rows ...store.Row) {
	t.Helper()
	if err := s.Commit(t.Context(), store.Batch{Put: rows}); err != nil {
		t.Fatal(err)
	}
}

func tell(t *testing.T, s *Store, subject, key string) {
	t.Helper()
	if err := s.Commit(t.Context(), store.Batch{Tell: []store.Message{{To: "inbox", Subject: subject, Key: key}}}); err != nil {
		t.Fatal(err)
	}
}

// wait counts to n, or fails the test after a long while.
func wait[T any](t *testing.T, c <-chan T, what string) T {
	t.Helper()
	select {
	case v := <-c:
		return v
	case <-time.After(20 * time.Second):
		t.Fatalf("%s: nothing happened", what)
		panic("unreachable")
	}
}

func TestSettings(t *testing.T) {
	t.Parallel()
	redistest.Need(t)
	tests := []struct {
		name, setting, value string
		url                  string // added to the address
		want                 string // empty: it is opened
	}{
		{"safe", "", "", "", ""},
		{"eviction", "maxmemory-policy", "allkeys-lru", "", "set maxmemory-policy noeviction"},
		{"eviction of what expires", "maxmemory-policy", "volatile-lru", "", "set maxmemory-policy noeviction"},
		{"no log", "appendonly", "no", "", "set appendonly yes"},
		{"a second may be lost", "appendfsync", "everysec", "", "set appendfsync always"},
		{"nobody syncs", "appendfsync", "no", "", "set appendfsync always"},
		{"not while rewriting", "no-appendfsync-on-rewrite", "yes", "", "set no-appendfsync-on-rewrite no"},
		{"cluster", "cluster-enabled", "yes", "", "set cluster-enabled no"},
		{"config hidden", "rename-command CONFIG", `""`, "", "?trust=settings"},
		{"config hidden, trusted", "rename-command CONFIG", `""`, "?trust=settings", ""},
		{"writes with nobody behind", "", "", "?wait=1", "set min-replicas-to-write 1"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			settings := map[string]string{}
			if tt.setting != "" {
				settings[tt.setting] = tt.value
			}
			server := redistest.Start(t, &redistest.Server{Settings: settings})
			s, err := Open(t.Context(), server.URL("settings")+tt.url, Options{})
			if err == nil {
				s.Close()
			}
			switch {
			case tt.want == "" && err != nil:
				t.Error(err)
			case tt.want != "" && (!errors.Is(err, mlaas.ErrUnavailable) || !strings.Contains(fmt.Sprint(err), tt.want)):
				t.Errorf("open: %v, want %q", err, tt.want)
			case tt.want != "" && strings.Count(err.Error(), "\n") != 1:
				t.Errorf("open: %v, want one line that says what to set", err)
			}
		})
	}
	t.Run("no password", func(t *testing.T) {
		for host, bad := range map[string]bool{"redis://db.example:1/x": true, "redis://127.0.0.1:1/x": false, "redis://localhost/x": false, "redis://[::1]/x": false,
			"unix:///run/redis.sock": false, "redis+sentinel://localhost/m": true, "redis://:secret@db.example/x": false} {
			a, err := parse(host)
			if err != nil {
				t.Fatal(err)
			}
			a.wait = 0
			lines := (&Store{address: a}).wrong("redis_version:7.0.15\n", map[string]string{"appendonly": "yes", "appendfsync": "always", "no-appendfsync-on-rewrite": "no", "maxmemory-policy": "noeviction"})
			if got := strings.Contains(strings.Join(lines, "\n"), "set requirepass"); got != bad {
				t.Errorf("%s: %q, want a word about the password: %v", host, lines, bad)
			}
		}
	})
	t.Run("old", func(t *testing.T) {
		for version, bad := range map[string]bool{"6.2.7": true, "5.0.3": true, "7.0.0": false, "8.2.1": false, "10.0.0": false} {
			if got := len((&Store{}).wrong("redis_version:"+version+"\n", nil)) > 0; got != bad {
				t.Errorf("version %s is refused: %v", version, got)
			}
		}
	})
	t.Run("replica", func(t *testing.T) {
		primary := redistest.Start(t, &redistest.Server{})
		replica := redistest.Start(t, &redistest.Server{Primary: primary})
		if _, err := Open(t.Context(), replica.URL("x"), Options{}); err == nil || !strings.Contains(err.Error(), "address of its primary") {
			t.Errorf("open: %v", err)
		}
	})
	t.Run("wrong password", func(t *testing.T) {
		server := redistest.Start(t, &redistest.Server{})
		if _, err := Open(t.Context(), strings.Replace(server.URL("x"), redistest.Password, "guess", 1), Options{}); err == nil || !strings.Contains(err.Error(), "WRONGPASS") {
			t.Errorf("open: %v", err)
		}
	})
	t.Run("nobody there", func(t *testing.T) {
		began := time.Now()
		if _, err := Open(t.Context(), "redis://127.0.0.1:1/x", Options{}); !errors.Is(err, mlaas.ErrUnavailable) {
			t.Errorf("open: %v", err)
		}
		if took := time.Since(began); took > 6*time.Second {
			t.Errorf("it took %v to say so", took)
		}
	})
}

func TestParse(t *testing.T) {
	tests := []struct{ url, hosts, prefix, want string }{
		{"redis://:p%40ss@h/prod", "h:6379", "{prod}:", ""},
		{"redis://h:7000", "h:7000", "{mlaas}:", ""},
		{"redis://[::1]/x", "[::1]:6379", "{x}:", ""},
		{"unix://:pw@/run/a.sock?name=b", "/run/a.sock", "{b}:", ""},
		{"redis+sentinel://:pw@a,b:1,c:2/main?name=x&wait=2", "a:26379 b:1 c:2", "{x}:", ""},
		{"redis://a,b/x", "", "", "one host"},
		{"redis://h/a{b}", "", "", "letters"},
		{"redis://h/x?wait=-1", "", "", "how many"},
		{"redis://h/x?trust=me", "", "", "settings"},
		{"redis://h/x?color=red", "", "", "color"},
		{"redis+sentinel://h", "", "", "name by which"},
		{"http://h", "", "", "redis://"},
		{"redis", "", "", "redis://"},
	}
	for _, tt := range tests {
		a, err := parse(tt.url)
		if tt.want != "" {
			if !errors.Is(err, mlaas.ErrInvalid) || !strings.Contains(err.Error(), tt.want) {
				t.Errorf("%s: %v, want %q", tt.url, err, tt.want)
			}
			continue
		}
		if err != nil || strings.Join(a.hosts, " ") != tt.hosts || a.prefix != tt.prefix {
			t.Errorf("%s: %v %s (%v), want %s %s", tt.url, a.hosts, a.prefix, err, tt.hosts, tt.prefix)
		}
	}
	if a, _ := parse("redis+sentinel://:p%2F1@a/m?sentinel_password=q"); a.password != "p/1" || a.sentinelPassword != "q" || a.master != "m" || a.wait != 1 {
		t.Errorf("%+v", a)
	}
}

// use does a little of everything.
func use(t *testing.T, s *Store) {
	t.Helper()
	put(t, s, row("a", 0, "{}"))
	tell(t, s, "S", "k")
	c, err := s.Next(t.Context(), "inbox", time.Minute)
	if err != nil {
		t.Fatal(err)
	}
	if err := s.Commit(t.Context(), store.Batch{Retry: &c}); err != nil {
		t.Error(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	out := make(chan store.Change)
	go s.Watch(ctx, 0, nil, out)
	wait(t, out, "a")
	wait(t, out, "synced")
	if err := s.Commit(t.Context(), store.Batch{Delete: []store.Row{row("a", 1, "")}}); err != nil {
		t.Error(err)
	}
	wait(t, out, "the deletion")
	if _, _, err := s.List(t.Context(), store.Query{Kind: "thing"}); err != nil {
		t.Error(err)
	}
	if st, err := s.Stats(t.Context()); err != nil || st.Waiting != 1 || st.Size == 0 {
		t.Errorf("stats are %+v, %v", st, err)
	}
	if _, err := s.Parked(t.Context()); err != nil {
		t.Error(err)
	}
}

// A user who may do what the manual says may do enough, and sees no other
// platform.
func TestUser(t *testing.T) {
	manual, err := os.ReadFile("../../docs/how-to/redis.md")
	if err != nil {
		t.Fatal(err)
	}
	_, rest, _ := strings.Cut(string(manual), "`~{NAME}:* ")
	rights, _, found := strings.Cut(rest, "`")
	if !found {
		t.Fatal("the manual does not say which rights are needed")
	}
	server := redistest.Start(t, &redistest.Server{Settings: map[string]string{"user": "app on >pw ~{acl}:* " + rights, "min-replicas-to-write": "1"}})
	replica := redistest.Start(t, &redistest.Server{Primary: server})
	if err := replica.Await("Finished with success"); err != nil {
		t.Fatal(err)
	}
	as := func(name string) string {
		return strings.Replace(server.URL(name), ":"+redistest.Password, "app:pw", 1) + "?wait=1"
	}
	s := open(t, as("acl"), Options{})
	defer s.Close()
	use(t, s)
	if _, err := Open(t.Context(), as("other"), Options{}); err == nil || !strings.Contains(err.Error(), "does not let us in") {
		t.Errorf("the store of another: %v", err)
	}
}

// TLS, with a certificate of our own.
func TestTLS(t *testing.T) {
	dir := t.TempDir()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{SerialNumber: big.NewInt(1), NotAfter: time.Now().Add(time.Hour), IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)},
		IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageDigitalSignature | x509.KeyUsageCertSign}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		t.Fatal(err)
	}
	private, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		t.Fatal(err)
	}
	for name, block := range map[string]*pem.Block{"cert": {Type: "CERTIFICATE", Bytes: der}, "key": {Type: "PRIVATE KEY", Bytes: private}} {
		if err := os.WriteFile(filepath.Join(dir, name), pem.EncodeToMemory(block), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	addr := l.Addr().(*net.TCPAddr)
	l.Close()
	cert := filepath.Join(dir, "cert")
	server := redistest.Start(t, &redistest.Server{Settings: map[string]string{"tls-port": fmt.Sprint(addr.Port), "tls-cert-file": cert,
		"tls-key-file": filepath.Join(dir, "key"), "tls-ca-cert-file": cert, "tls-auth-clients": "no"}})
	url := strings.Replace(server.URLAt(addr.String(), "tls"), "redis://", "rediss://", 1)
	s := open(t, url+"?ca="+cert, Options{})
	defer s.Close()
	use(t, s)
	if _, err := Open(t.Context(), url, Options{}); err == nil || !strings.Contains(err.Error(), "certificate") {
		t.Errorf("a certificate that nobody vouches for: %v", err)
	}
}

// A socket, on a server that listens nowhere else.
func TestSocket(t *testing.T) {
	dir := t.TempDir()
	redistest.Start(t, &redistest.Server{Password: "-", Settings: map[string]string{"unixsocket": filepath.Join(dir, "s")}})
	s := open(t, "unix://"+filepath.Join(dir, "s")+"?name=b", Options{})
	defer s.Close()
	use(t, s)
}

// Platforms that share a server see nothing of each other.
func TestNames(t *testing.T) {
	server := redistest.Start(t, &redistest.Server{})
	a, b := open(t, server.URL("a"), Options{}), open(t, server.URL("b"), Options{})
	defer a.Close()
	defer b.Close()
	put(t, a, row("x", 0, "{}"))
	if _, err := b.Get(t.Context(), row("x", 0, "").Key); !errors.Is(err, mlaas.ErrNotFound) {
		t.Errorf("get: %v", err)
	}
	put(t, b, row("x", 0, "{}"))
}

// Processes share an inbox: messages of one line never overtake each other,
// and each is handed out once, whoever asks.
func TestShared(t *testing.T) {
	server := redistest.Start(t, &redistest.Server{})
	const lines, each, processes = 5, 30, 3
	teller := open(t, server.URL("shared"), Options{})
	defer teller.Close()
	type heard struct {
		line string
		n    string
	}
	came := make(chan heard)
	ctx, cancel := context.WithCancel(t.Context())
	var all sync.WaitGroup
	defer all.Wait()
	defer cancel()
	for range processes {
		s := open(t, server.URL("shared"), Options{})
		defer s.Close()
		for range 3 {
			all.Go(func() {
				for {
					c, err := s.Next(ctx, "inbox", time.Minute)
					if err != nil {
						return
					}
					came <- heard{c.Message.Key, c.Message.Subject}
					if err := s.Commit(t.Context(), store.Batch{Ack: &c}); err != nil {
						t.Error(err)
					}
				}
			})
		}
	}
	go func() {
		for n := range each {
			for l := range lines {
				if err := teller.Commit(t.Context(), store.Batch{Tell: []store.Message{{To: "inbox", Subject: fmt.Sprint(n), Key: fmt.Sprint("line", l)}}}); err != nil {
					t.Error(err)
				}
			}
		}
	}()
	next := map[string]int{}
	for range lines * each {
		h := wait(t, came, "hearing")
		if h.n != fmt.Sprint(next[h.line]) {
			t.Errorf("%s: heard %s, want %d", h.line, h.n, next[h.line])
		}
		next[h.line]++
	}
}

// A process that ends in peace gives back what it holds, and that is not the
// message's fault.
func TestGivenBack(t *testing.T) {
	t.Parallel()
	server := redistest.Start(t, &redistest.Server{})
	log := slog.New(slog.DiscardHandler)
	s := open(t, server.URL("back"), Options{Log: log})
	tell(t, s, "Deadly", "k")
	tell(t, s, "Behind", "k")
	times := 0
	for ; ; times++ {
		c, err := s.Next(t.Context(), "inbox", time.Hour)
		if err != nil {
			t.Fatal(err)
		}
		if c.Message.Subject != "Deadly" {
			break
		}
		s.Close()
		s = open(t, server.URL("back"), Options{Log: log})
	}
	defer s.Close()
	if want := 5 * store.MaxDeliveries; times != want {
		t.Errorf("it ended %d processes before it was parked, want %d", times, want)
	}
	if parked, err := s.Parked(t.Context()); err != nil || len(parked) != 1 || parked[0].Why == "" {
		t.Errorf("parked: %+v, %v", parked, err)
	}
}

// A process that is killed does not keep what it holds for as long as the
// lease says. One that only was quiet for a while does.
func TestDeadProcess(t *testing.T) {
	server := redistest.Start(t, &redistest.Server{})
	log := slog.New(slog.DiscardHandler)
	dead := open(t, server.URL("dead"), Options{Log: log, dead: 100 * time.Millisecond})
	defer dead.Close()
	alive := open(t, server.URL("dead"), Options{Log: log, dead: 100 * time.Millisecond})
	defer alive.Close()
	tell(t, alive, "S", "k")
	tell(t, alive, "T", "")
	first, err := dead.Next(t.Context(), "inbox", time.Hour)
	if err != nil {
		t.Fatal(err)
	}
	other, err := alive.Next(t.Context(), "inbox", time.Hour)
	if err != nil {
		t.Fatal(err)
	}
	quiet, cancel := context.WithTimeout(t.Context(), 500*time.Millisecond)
	defer cancel()
	if c, err := alive.Next(quiet, "inbox", time.Hour); !errors.Is(err, context.DeadlineExceeded) {
		t.Fatalf("heard %+v (%v) while its holder lives", c, err)
	}
	dead.end() // no more heartbeats, and nothing is given back
	again, err := alive.Next(t.Context(), "inbox", time.Hour)
	if err != nil || again.ID != first.ID || again.Delivery != 1 {
		t.Fatalf("heard %+v (%v), want %+v again, and that it does not count", again, err, first)
	}
	for _, c := range []store.Claim{again, other} {
		if err := alive.Commit(t.Context(), store.Batch{Ack: &c}); err != nil {
			t.Error(err)
		}
	}
	if err := alive.Commit(t.Context(), store.Batch{Ack: &first}); !errors.Is(err, store.ErrNotHeld) {
		t.Errorf("the dead one acknowledges: %v", err)
	}
}

// Deletions are remembered up to a number; who asks for older ones begins
// again.
func TestGone(t *testing.T) {
	server := redistest.Start(t, &redistest.Server{})
	s := open(t, server.URL("gone"), Options{Gone: 20})
	defer s.Close()
	seq := func() int64 {
		st, err := s.Stats(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		return st.Seq
	}
	put(t, s, row("a", 0, "{}"))
	first := seq()
	var recent int64
	for i := range 60 {
		if i == 50 {
			recent = seq()
		}
		id := fmt.Sprint(i)
		put(t, s, row(id, 0, "{}"))
		if err := s.Commit(t.Context(), store.Batch{Delete: []store.Row{row(id, 1, "")}}); err != nil {
			t.Fatal(err)
		}
	}
	out := make(chan store.Change)
	if err := s.Watch(t.Context(), first, []string{"thing"}, out); !errors.Is(err, mlaas.ErrGone) {
		t.Errorf("watch from %d: %v, want gone", first, err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error)
	go func() { done <- s.Watch(ctx, recent, []string{"thing"}, out) }()
	wait(t, out, "synced")
	for range 10 {
		if c := wait(t, out, "deletions"); !c.Deleted {
			t.Errorf("%+v, want deletions", c)
		}
	}
	cancel()
	<-done
}

// Callers share the syncs, and what one does wrong is not the others' business.
func TestGroups(t *testing.T) {
	server := redistest.Start(t, &redistest.Server{})
	s := open(t, server.URL("groups"), Options{})
	defer s.Close()
	put(t, s, row("0/0", 0, "{}"))
	var all sync.WaitGroup
	for i := range 32 {
		all.Go(func() {
			for j := range 20 {
				if err := s.Commit(t.Context(), store.Batch{Put: []store.Row{row(fmt.Sprintf("%d/%d", i+1, j), 0, "{}")}}); err != nil {
					t.Error(err)
				}
				if err := s.Commit(t.Context(), store.Batch{Put: []store.Row{row("0/0", 99, "{}")}}); !errors.Is(err, mlaas.ErrConflict) || !strings.Contains(err.Error(), "revision 1, not 99") {
					t.Errorf("a conflict is %v", err)
				}
			}
		})
	}
	all.Wait()
	st, err := s.Stats(t.Context())
	if err != nil || st.Records != 641 || st.Commits != 641 || st.Syncs > 640 {
		t.Errorf("stats are %+v (%v), want 641 commits that share syncs", st, err)
	}
}

// A server that is at its maxmemory refuses whole batches and drops nothing;
// what makes room is done; it goes on when there is room.
func TestMemoryFull(t *testing.T) {
	t.Parallel()
	server := redistest.Start(t, &redistest.Server{Settings: map[string]string{"maxmemory": "8mb"}})
	s := open(t, server.URL("full"), Options{})
	defer s.Close()
	tell(t, s, "S", "k")
	c, err := s.Next(t.Context(), "inbox", time.Minute)
	if err != nil {
		t.Fatal(err)
	}
	large, kept := strings.Repeat("x", 100_000), 0
	for ; err == nil && kept < 1000; kept++ {
		err = s.Commit(t.Context(), store.Batch{Put: []store.Row{row(fmt.Sprint(kept), 0, large)}, Tell: []store.Message{{To: "other", Subject: "S"}}})
	}
	kept--
	if !errors.Is(err, mlaas.ErrDisk) || kept < 10 {
		t.Fatalf("after %d records: %v, want no room", kept, err)
	}
	if err := s.Commit(t.Context(), store.Batch{Ack: &c}); err != nil {
		t.Errorf("acknowledge: %v", err)
	}
	if c, err = s.Next(t.Context(), "other", time.Minute); err != nil {
		t.Errorf("hear: %v", err)
	}
	st, err := s.Stats(t.Context())
	if err != nil || st.Records != int64(kept) || st.Waiting != int64(kept) {
		t.Errorf("stats are %+v (%v), want %d records and messages", st, err, kept)
	}
	for i := range kept {
		if _, err := s.Get(t.Context(), row(fmt.Sprint(i), 0, "").Key); err != nil {
			t.Error(err)
		}
	}
	if err := s.db.ConfigSet(t.Context(), "maxmemory", "100mb").Err(); err != nil {
		t.Fatal(err)
	}
	put(t, s, row("more", 0, large))
	if err := s.Commit(t.Context(), store.Batch{Ack: &c}); err != nil {
		t.Error(err)
	}
}

// A large row and a long index come back; pages end before they are too large.
func TestLarge(t *testing.T) {
	t.Parallel()
	server := redistest.Start(t, &redistest.Server{})
	s := open(t, server.URL("large"), Options{})
	defer s.Close()
	odd := row("odd", 0, "\x00\xff{}")
	odd.Index = nil
	for i := range 100 {
		odd.Index = append(odd.Index, fmt.Sprintf("a long value: %d:\x00\xff\n", i))
	}
	put(t, s, odd)
	odd.Rev, odd.Index = 1, odd.Index[50:]
	put(t, s, odd)
	got, err := s.Get(t.Context(), odd.Key)
	if err != nil || got.Rev != 2 || !bytes.Equal(got.Data, odd.Data) || strings.Join(got.Index, "") != strings.Join(odd.Index, "") {
		t.Errorf("got %+v (%v)", got, err)
	}
	for i, want := range map[int]int{0: 0, 70: 1} {
		found, _, err := s.List(t.Context(), store.Query{Kind: "thing", Index: fmt.Sprintf("a long value: %d:\x00\xff\n", i)})
		if err != nil || len(found) != want {
			t.Errorf("index %d finds %d rows (%v), want %d", i, len(found), err, want)
		}
	}
	var many store.Batch
	for i := range 5000 {
		many.Put = append(many.Put, row(fmt.Sprint("many", i), 0, "{}"))
		many.Tell = append(many.Tell, store.Message{To: fmt.Sprint("inbox", i), Subject: "S"})
	}
	if err := s.Commit(t.Context(), many); err != nil {
		t.Fatal(err)
	}
	if c, err := s.Next(t.Context(), "inbox4999", time.Minute); err != nil || c.Message.Subject != "S" {
		t.Errorf("heard %+v (%v)", c, err)
	}
	for i := range many.Put {
		many.Delete = append(many.Delete, store.Row{Key: many.Put[i].Key, Rev: 1})
	}
	many.Put, many.Tell = nil, nil
	if err := s.Commit(t.Context(), many); err != nil {
		t.Fatal(err)
	}
	whole := strings.Repeat("x", store.MaxData)
	for i := range 3 {
		put(t, s, row(fmt.Sprint("large", i), 0, whole))
	}
	found, next, err := s.List(t.Context(), store.Query{Kind: "thing", Prefix: "large"})
	if err != nil || len(found) != 3 || next != (store.Key{}) {
		t.Errorf("%d rows, then %s (%v)", len(found), next, err)
	}
	out := make(chan store.Change)
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error)
	go func() { done <- s.Watch(ctx, 0, nil, out) }()
	for n := range 5 {
		if c := wait(t, out, "watch"); c.Synced != (n == 4) {
			t.Errorf("change %d is of %s", n, c.Row.Key)
		}
	}
	cancel()
	<-done
}

// A server that forgot the scripts, or all connections, is not the callers'
// business.
func TestForgotten(t *testing.T) {
	server := redistest.Start(t, &redistest.Server{})
	s := open(t, server.URL("forgotten"), Options{})
	defer s.Close()
	for i := range 20 {
		switch i % 2 {
		case 0:
			if err := s.db.ScriptFlush(t.Context()).Err(); err != nil {
				t.Fatal(err)
			}
		case 1:
			if err := s.db.Do(t.Context(), "CLIENT", "KILL", "TYPE", "normal").Err(); err != nil {
				t.Fatal(err)
			}
		}
		put(t, s, row(fmt.Sprint(i), 0, "{}"))
		tell(t, s, "S", "k")
		c, err := s.Next(t.Context(), "inbox", time.Minute)
		if err != nil {
			t.Fatal(err)
		}
		if err := s.Commit(t.Context(), store.Batch{Ack: &c}); err != nil {
			t.Error(err)
		}
	}
}

// Calls to a server that is away fail in time, and succeed once it is back;
// who waits for messages or changes goes on.
func TestAway(t *testing.T) {
	server := redistest.Start(t, &redistest.Server{})
	before := goleak.IgnoreCurrent()
	s := open(t, server.URL("away"), Options{Log: slog.New(slog.DiscardHandler)})
	put(t, s, row("a", 0, "{}"))
	out := make(chan store.Change, 100)
	ctx, cancel := context.WithCancel(t.Context())
	watched := make(chan error, 1)
	go func() { watched <- s.Watch(ctx, 0, nil, out) }()
	heard := make(chan store.Claim, 1)
	go func() {
		c, err := s.Next(t.Context(), "inbox", time.Minute)
		for errors.Is(err, mlaas.ErrUnavailable) { // as an inbox would
			c, err = s.Next(t.Context(), "inbox", time.Minute)
		}
		if err != nil {
			t.Error(err)
		}
		heard <- c
	}()
	for !wait(t, out, "synced").Synced {
	}
	for _, hurt := range []struct {
		name        string
		begin, mend func()
	}{
		{"killed", server.Kill, func() {
			if err := server.Restart(); err != nil {
				t.Fatal(err)
			}
		}},
		{"paused", server.Stop, server.Cont},
	} {
		hurt.begin()
		for what, call := range map[string]func() error{
			"commit": func() error { return s.Commit(t.Context(), store.Batch{Put: []store.Row{row("b", 7, "{}")}}) },
			"get":    func() error { _, err := s.Get(t.Context(), row("a", 0, "").Key); return err },
			"list":   func() error { _, _, err := s.List(t.Context(), store.Query{Kind: "thing"}); return err },
		} {
			began := time.Now()
			if err := call(); !errors.Is(err, mlaas.ErrUnavailable) {
				t.Errorf("%s while it is %s: %v", what, hurt.name, err)
			}
			if took := time.Since(began); took > 5*time.Second {
				t.Errorf("%s took %v to fail while it is %s", what, took, hurt.name)
			}
		}
		hurt.mend()
		began := time.Now()
		put(t, s, row(hurt.name, 0, "{}"))
		if took := time.Since(began); took > 2*time.Second {
			t.Errorf("the first commit took %v after it was %s", took, hurt.name)
		}
		for c := wait(t, out, "change"); c.Row.Key.ID != hurt.name; c = wait(t, out, "change") {
		}
	}
	tell(t, s, "S", "")
	wait(t, heard, "message")
	cancel()
	if err := <-watched; !errors.Is(err, context.Canceled) {
		t.Errorf("watch ends with %v", err)
	}
	s.Close()
	s.Close()
	if err := s.Commit(context.Background(), store.Batch{Put: []store.Row{row("c", 0, "{}")}}); !errors.Is(err, mlaas.ErrUnavailable) {
		t.Errorf("commit after Close: %v", err)
	}
	if _, err := s.Get(context.Background(), row("a", 0, "").Key); !errors.Is(err, mlaas.ErrUnavailable) {
		t.Errorf("get after Close: %v", err)
	}
	server.Close() // its log is read by a goroutine
	goleak.VerifyNone(t, before)
}

// A proxy stands between a store and its server, and can do what networks do.
type proxy struct {
	net.Listener
	to string

	hold    chan struct{} // what has HOLD in it waits until this is closed
	answers chan string   // what the server says to that

	mu   sync.Mutex
	hole bool           // what is sent comes nowhere, and nobody says so
	held int            // times that something waited
	lost map[string]int // answers that were lost, by what was asked
}

func newProxy(t *testing.T, server *redistest.Server) *proxy {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	p := &proxy{Listener: l, to: server.Addr(), hold: make(chan struct{}), answers: make(chan string, 10), lost: map[string]int{}}
	var all sync.WaitGroup
	all.Go(func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			all.Go(func() { p.serve(c) })
		}
	})
	t.Cleanup(func() {
		l.Close()
		p.fill()
		all.Wait()
	})
	return p
}

func (p *proxy) url(server *redistest.Server, name string) string {
	return server.URLAt(p.Addr().String(), name)
}

func (p *proxy) dig() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.hole = true
}

func (p *proxy) fill() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.hole = false
}

func (p *proxy) swallows() bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.hole
}

// loses reports whether the answer to these bytes is to be lost: what has
// LOSE1 in it loses one, LOSE2 two.
func (p *proxy) loses(sent []byte) bool {
	_, rest, found := bytes.Cut(sent, []byte("LOSE"))
	if !found {
		return false
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	what := string(rest[:3])
	if p.lost[what] == int(what[0]-'0') {
		return false
	}
	p.lost[what]++
	return true
}

// serve passes bytes on.
func (p *proxy) serve(client net.Conn) {
	server, err := net.Dial("tcp", p.to)
	if err != nil {
		client.Close()
		return
	}
	var lose, held atomic.Bool
	var both sync.WaitGroup
	both.Go(func() {
		buf := make([]byte, 1<<20)
		for {
			n, err := client.Read(buf)
			if p.loses(buf[:n]) {
				lose.Store(true)
			}
			if bytes.Contains(buf[:n], []byte("HOLD")) {
				p.mu.Lock()
				p.held++
				p.mu.Unlock()
				<-p.hold
				held.Store(true)
			}
			if n > 0 && !p.swallows() {
				server.Write(buf[:n])
			}
			if err != nil {
				if !held.Load() {
					server.Close()
				}
				return
			}
		}
	})
	both.Go(func() {
		buf := make([]byte, 1<<20)
		for {
			n, err := server.Read(buf)
			if held.Load() {
				p.answers <- string(buf[:n])
				break
			}
			if err != nil || lose.Load() {
				break
			}
			if !p.swallows() {
				client.Write(buf[:n])
			}
		}
		client.Close()
	})
	both.Wait()
	server.Close()
}

// A commit whose answer is lost is done once, and answered as the first time.
func TestLostAnswer(t *testing.T) {
	server := redistest.Start(t, &redistest.Server{})
	p := newProxy(t, server)
	s := open(t, p.url(server, "lost"), Options{})
	defer s.Close()
	put(t, s, row("first", 0, "{}"))
	for i := range 6 { // half of them lose one answer, half two
		subject := fmt.Sprintf("LOSE%d-%d", i%2+1, i)
		if err := s.Commit(t.Context(), store.Batch{Put: []store.Row{row(subject, 0, "{}")}, Tell: []store.Message{{To: "inbox", Subject: subject}}}); err != nil {
			t.Errorf("commit: %v", err)
		}
		if err := s.Commit(t.Context(), store.Batch{Put: []store.Row{row("first", 7, "{}")}, Check: []store.Row{row(strings.Replace(subject, "-", "+", 1), 0, "")}}); !errors.Is(err, mlaas.ErrConflict) {
			t.Errorf("conflict: %v", err)
		}
	}
	direct := open(t, server.URL("lost"), Options{})
	defer direct.Close()
	st, err := direct.Stats(t.Context())
	if err != nil || st.Records != 7 || st.Waiting != 6 {
		t.Errorf("stats are %+v (%v), want six commits, each once", st, err)
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	if len(p.lost) != 12 {
		t.Errorf("lost were %v: the test shows less than it should", p.lost)
	}
}

// What was sent long ago and given up is not done when it arrives after all.
func TestLateArrival(t *testing.T) {
	t.Parallel()
	server := redistest.Start(t, &redistest.Server{})
	p := newProxy(t, server)
	s := open(t, p.url(server, "late"), Options{Log: slog.New(slog.DiscardHandler)})
	defer s.Close()
	put(t, s, row("first", 0, "{}"))
	if err := s.Commit(t.Context(), store.Batch{Tell: []store.Message{{To: "inbox", Subject: "HOLD"}}}); !errors.Is(err, mlaas.ErrUnavailable) {
		t.Fatalf("commit that does not arrive: %v", err)
	}
	const later = 5 * lanes // every lane has a later group then
	for range later {
		tell(t, s, "Later", "")
	}
	close(p.hold)
	p.mu.Lock()
	held := p.held
	p.mu.Unlock()
	if held == 0 {
		t.Fatal("nothing was held")
	}
	for range held {
		if said := wait(t, p.answers, "the late one"); !strings.Contains(said, "LATE") {
			t.Errorf("the server says %q to what comes late", said)
		}
	}
	st, err := s.Stats(t.Context())
	if err != nil || st.Waiting != later {
		t.Errorf("stats are %+v (%v), want %d messages", st, err, later)
	}
}

// Connections that swallow everything without a word are found out, and the
// store heals by itself.
func TestHalfOpen(t *testing.T) {
	t.Parallel()
	server := redistest.Start(t, &redistest.Server{})
	p := newProxy(t, server)
	s := open(t, p.url(server, "half"), Options{Log: slog.New(slog.DiscardHandler)})
	defer s.Close()
	var all sync.WaitGroup
	for i := range 32 { // many connections
		all.Go(func() {
			put(t, s, row(fmt.Sprint(i), 0, "{}"))
			if _, err := s.Get(t.Context(), row(fmt.Sprint(i), 0, "").Key); err != nil {
				t.Error(err)
			}
		})
	}
	heard := make(chan store.Claim, 1)
	go func() {
		c, err := s.Next(t.Context(), "inbox", time.Minute)
		for errors.Is(err, mlaas.ErrUnavailable) {
			c, err = s.Next(t.Context(), "inbox", time.Minute)
		}
		if err != nil {
			t.Error(err)
		}
		heard <- c
	}()
	all.Wait()
	p.dig()
	began := time.Now()
	err := s.Commit(t.Context(), store.Batch{Put: []store.Row{row("x", 0, "{}")}})
	if took := time.Since(began); !errors.Is(err, mlaas.ErrUnavailable) || took > 5*time.Second {
		t.Errorf("commit into a hole: %v after %v", err, took)
	}
	p.fill()
	began = time.Now()
	tell(t, s, "S", "")
	wait(t, heard, "message")
	if took := time.Since(began); took > 5*time.Second {
		t.Errorf("it healed after %v", took)
	}
}

// Scripts are as strict as the suite: what a commit reads decides, not what a
// caller says about a claim.
func TestClaimOfAnother(t *testing.T) {
	server := redistest.Start(t, &redistest.Server{})
	s := open(t, server.URL("claims"), Options{})
	defer s.Close()
	tell(t, s, "S", "k")
	c, err := s.Next(t.Context(), "inbox", time.Minute)
	if err != nil {
		t.Fatal(err)
	}
	lie := c
	lie.Message.To, lie.Message.Key = "elsewhere", "other"
	if err := s.Commit(t.Context(), store.Batch{Ack: &lie}); err != nil {
		t.Error(err)
	}
	keys, err := s.db.Keys(t.Context(), s.prefix+"*").Result()
	if err != nil {
		t.Fatal(err)
	}
	for _, k := range keys { // nothing is left of it
		if strings.Contains(k, ":m:") || strings.Contains(k, ":held:") || strings.Contains(k, ":timed:") || strings.Contains(k, ":due") || strings.Contains(k, ":claims:") {
			t.Errorf("%s is left", k)
		}
	}
	if !strings.HasPrefix(s.prefix, "{") {
		t.Error("the keys are not in one slot")
	}
}
