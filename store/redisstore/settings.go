package redisstore

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"strconv"
	"strings"

	"github.com/redis/go-redis/v9"

	"mlaas.dev/mlaas"
)

// greet looks at the server at the other end of each new connection: it may be
// another one than before, or have other settings. An error is what the
// connection is refused for.
func (s *Store) greet(ctx context.Context, c *redis.Conn) error {
	info, err := c.Info(ctx, "server", "replication", "cluster").Result()
	if err != nil {
		if strings.HasPrefix(err.Error(), "NOPERM") {
			return s.unsafe("INFO is forbidden to this user: allow +info")
		}
		return err
	}
	if field(info, "redis_mode") == "sentinel" {
		return nil
	}
	if field(info, "role") == "slave" && s.master != "" {
		return errReplica // the Sentinels have not agreed yet
	}
	settings, err := c.ConfigGet(ctx, "*").Result()
	switch {
	case s.trust:
		settings = nil
	case err != nil && (strings.HasPrefix(err.Error(), "NOPERM") || strings.HasPrefix(err.Error(), "ERR unknown command")):
		return s.unsafe("CONFIG is forbidden, so its settings cannot be checked: allow +config|get, or, if they are as the manual asks, add ?trust=settings to the URL")
	case err != nil:
		return err
	}
	if wrong := s.wrong(info, settings); len(wrong) > 0 {
		return s.unsafe(wrong...)
	}
	if s.wait == 0 {
		return nil
	}
	promoted := ""
	if strings.Trim(field(info, "master_replid2"), "0") != "" {
		promoted = "promoted"
	}
	jumped, err := s.scripts.adopt.Run(ctx, c, nil, s.prefix, field(info, "run_id"), promoted).Int()
	if err != nil && strings.HasPrefix(err.Error(), "NOREPLICAS") {
		s.orphaned.Store(true) // it can be read from; who writes tries again
		return nil
	}
	if jumped == 1 {
		s.log.Warn("another Redis server is the primary now; whoever watches begins again", "server", s.String())
	}
	return err
}

var errReplica = errors.New("READONLY the server is still a replica")

// unsafe is a server that could lose what was acknowledged, in sentences.
type unsafe struct {
	at    address
	lines []string
}

// unsafe is wrapped once more, because the client takes one wrapping off what
// greet returns.
func (a address) unsafe(lines ...string) error { return fmt.Errorf("%w", unsafe{a, lines}) }

func (u unsafe) Error() string {
	return fmt.Sprintf("the Redis server %s is not safe to keep a platform in:\n%s", u.at, strings.Join(u.lines, "\n"))
}

func (u unsafe) Unwrap() error { return mlaas.ErrUnavailable }

// wrong says what to set, one line each. No settings: they are trusted.
func (s *Store) wrong(info string, settings map[string]string) (lines []string) {
	say := func(format string, args ...any) { lines = append(lines, fmt.Sprintf(format, args...)) }
	version := field(info, "redis_version")
	if major, _, _ := strings.Cut(version, "."); len(major) == 1 && major < "7" {
		say("it is version %s: install 7.0 or later", version)
	}
	if field(info, "cluster_enabled") == "1" {
		say("it is a Redis Cluster, where no commit can span what a commit must: set cluster-enabled no, and use one primary with replicas and Sentinels")
	}
	if field(info, "role") == "slave" {
		say("it is a replica: give the address of its primary, or of the Sentinels")
	}
	if settings == nil {
		return lines
	}
	for _, must := range []struct{ name, value, why string }{
		{"appendonly", "yes", "without it everything is lost at a restart"},
		{"appendfsync", "always", "otherwise the last second is lost with the power"},
		{"no-appendfsync-on-rewrite", "no", "otherwise nothing is synced while the log is rewritten"},
		{"maxmemory-policy", "noeviction", "otherwise records vanish when memory is short"},
	} {
		if is := settings[must.name]; is != must.value {
			say("%s is %s: set %s %s; %s", must.name, is, must.name, must.value, must.why)
		}
	}
	if s.password == "" && !s.near() {
		say("it can be used without a password from other machines: set requirepass, and put the password into the URL")
	}
	if n, _ := strconv.Atoi(settings["min-replicas-to-write"]); s.wait > 0 && n < s.wait {
		say("min-replicas-to-write is %d: set min-replicas-to-write %d; otherwise a primary that was cut off goes on writing what is lost later", n, s.wait)
	}
	return lines
}

// field is one line of an INFO.
func field(info, name string) string {
	_, rest, _ := strings.Cut("\n"+info, "\n"+name+":")
	value, _, _ := strings.Cut(rest, "\n")
	return strings.TrimSpace(value)
}

// passes reports whether an error may be over in a moment.
func passes(err error) bool {
	if _, ok := errors.AsType[unsafe](err); ok || errors.Is(err, context.Canceled) {
		return false
	}
	if _, ok := errors.AsType[*mlaas.Kind](err); ok {
		return errors.Is(err, errUnconfirmed)
	}
	if re, ok := errors.AsType[redis.Error](err); ok && !errors.Is(err, redis.Nil) {
		return refused(re) || strings.HasPrefix(re.Error(), "UNKILLABLE")
	}
	return !errors.Is(err, redis.Nil) && !errors.Is(err, redis.ErrClosed)
}

// refused reports whether the server said that it did nothing, for a reason
// that passes.
func refused(err error) bool {
	for _, p := range []string{"LOADING", "READONLY", "NOREPLICAS", "MASTERDOWN", "BUSY", "TRYAGAIN", "ERR max number of clients"} {
		if strings.HasPrefix(err.Error(), p) {
			return true
		}
	}
	return false
}

// explain says what an error of Redis means to whoever runs the platform.
func (s *Store) explain(err error) error {
	if err == nil || errors.Is(err, context.Canceled) {
		return err
	}
	if _, ok := errors.AsType[*mlaas.Kind](err); ok {
		return err
	}
	said := err.Error()
	switch {
	case strings.HasPrefix(said, "OOM"):
		return fmt.Errorf("the Redis server %s is at its maxmemory; raise it, the store goes on by itself then: %w", s, mlaas.ErrDisk)
	case strings.HasPrefix(said, "MISCONF"):
		return fmt.Errorf("the Redis server %s cannot write to its disk (%s): %w", s, said, mlaas.ErrDisk)
	case strings.HasPrefix(said, "NOREPLICAS"):
		return fmt.Errorf("the Redis server %s has too few replicas to write safely; nothing was written: %w", s, mlaas.ErrUnavailable)
	case strings.HasPrefix(said, "NOAUTH"), strings.HasPrefix(said, "WRONGPASS"), strings.HasPrefix(said, "NOPERM"), strings.HasPrefix(said, "ERR AUTH"), strings.Contains(said, "can't access at least one of the keys"):
		return fmt.Errorf("the Redis server %s does not let us in (%s): give user and password in the URL: %w", s, said, mlaas.ErrUnavailable)
	}
	_, net := errors.AsType[net.Error](err)
	if net || refused(err) || errors.Is(err, io.EOF) || errors.Is(err, redis.ErrClosed) {
		return fmt.Errorf("the Redis server %s is away (%w): %w", s, err, mlaas.ErrUnavailable)
	}
	if _, ok := errors.AsType[redis.Error](err); ok {
		return fmt.Errorf("redis %s: %w: %w", s, err, mlaas.ErrInternal)
	}
	return fmt.Errorf("the Redis server %s cannot be used (%w): %w", s, err, mlaas.ErrUnavailable)
}
