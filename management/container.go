package management

import (
	"bufio"
	"context"
	"strings"
	"time"

	"mlaas.dev/mlaas"
	"mlaas.dev/mlaas/series"
)

// A container is one whose supervisor has not delivered a line in its attempt:
// what its cluster keeps of it is all that there is. It is followed while the
// log of its run is.
type container struct {
	end  context.CancelFunc
	over bool // nothing more comes from it
	read int  // lines of it so far that the query takes
	kept int  // of these, those that came again as lines of the replica: it has ended, and its log is kept
}

// attemptOf names a container.
type attemptOf struct {
	attempt int
	replica string
}

// A word is what came from a container that is followed.
type word struct {
	of    attemptOf
	text  string
	whole bool // it ends a line
	over  bool // there will be no more
}

// finishWithin is how long the rest of what a container wrote is waited for
// that has ended.
const finishWithin = 2 * time.Second

// look writes what executors keep of replicas whose supervisors have never
// delivered a line in their attempt, and from then on, where the log is
// followed, listens to what is added.
func (l *lines) look(ctx context.Context, out *lineWriter, q series.LineQuery) error {
	if l.m.Inside == nil || l.want.From > 1 || !q.Since.IsZero() || !q.Until.IsZero() {
		return nil // a part is wanted, and these have no numbers and no times
	}
	all, err := l.m.replicasOf(ctx, l.run.Tenant, l.run.ID)
	if err != nil {
		return err
	}
	for _, a := range all {
		of := attemptOf{a.Epoch, a.Fence.Replica}
		if c := l.containers[of]; c != nil {
			if a.Ready != nil && !c.over { // its supervisor speaks for itself
				c.over = true
				c.end()
			}
			continue
		}
		if a.Ready != nil || a.Epoch == 0 || l.replica != "" && a.Fence.Replica != l.replica || !l.takes(series.Line{Attempt: of.attempt, Replica: of.replica}) {
			continue
		}
		last, err := l.m.Series.Lines(ctx, series.LineQuery{Tenant: l.run.Tenant, Run: l.run.ID, Replica: a.Fence.Replica, Last: 1})
		if err != nil || len(last) > 0 && last[0].Attempt == a.Epoch {
			continue // it is kept among the others by now
		}
		text, size, err := l.m.Inside.Log(ctx, a.Cluster, a.Fence)
		if err != nil {
			continue // its container is not there yet, or no more
		}
		if l.want.Follow { // the rest of a line that is being written comes with what follows
			whole := text[:strings.LastIndexByte(text, '\n')+1]
			size -= int64(len(text) - len(whole))
			text = whole
		}
		var found []string
		read := 0
		for t := range strings.Lines(text) {
			if t = strings.TrimRight(t, "\r\n"); !wants(q, t) {
				continue
			}
			if read++; t != "" {
				found = append(found, t)
			}
		}
		if tail := max(l.want.Tail, l.want.Last); tail > 0 {
			found = found[max(0, len(found)-tail):]
		}
		for _, t := range found {
			if err := l.quote(out, of, t); err != nil {
				return err
			}
		}
		if l.want.Follow {
			l.listen(ctx, a, of, read, size)
		}
	}
	return nil
}

func wants(q series.LineQuery, text string) bool { return q.Grep == nil || q.Grep.MatchString(text) }

// quote writes a line of a container.
func (l *lines) quote(out *lineWriter, of attemptOf, text string) error {
	return out.write(l.shown(series.Line{Attempt: of.attempt, Replica: of.replica, LogLine: mlaas.LogLine{Stream: mlaas.ContainerStream, Text: text}}))
}

// listen follows a container of which everything up to the byte number after
// has been read. One that cannot be followed now may be later.
func (l *lines) listen(ctx context.Context, a mlaas.Replica, of attemptOf, read int, after int64) {
	ctx, cancel := context.WithCancel(ctx)
	from, err := l.m.Inside.FollowLog(ctx, a.Cluster, a.Fence, after)
	if err != nil {
		cancel()
		return
	}
	l.containers[of] = &container{end: cancel, read: read}
	go func() {
		defer from.Close()
		tell := func(w word) bool {
			select {
			case l.words <- w:
				return true
			case <-ctx.Done():
				return false
			}
		}
		for r := bufio.NewReaderSize(from, mlaas.MaxLine); ; {
			text, more, err := r.ReadLine()
			if err != nil {
				tell(word{of: of, over: true})
				return
			}
			if !tell(word{of: of, text: strings.ToValidUTF8(strings.TrimRight(string(text), "\r"), "\uFFFD"), whole: !more}) {
				return
			}
		}
	}()
}

// hear takes a word of a container that is followed.
func (l *lines) hear(out *lineWriter, q series.LineQuery, w word) error {
	c := l.containers[w.of]
	switch {
	case c.over: // its supervisor was faster
		return nil
	case w.over:
		c.over = true
		c.end()
		return nil
	case !wants(q, w.text):
		return nil
	}
	if w.whole {
		c.read++
	}
	if w.text == "" {
		return nil
	}
	return l.quote(out, w.of, w.text)
}

// finish hears a container to its end, which has come.
func (l *lines) finish(ctx context.Context, out *lineWriter, q series.LineQuery, c *container) error {
	late := time.NewTimer(finishWithin)
	defer late.Stop()
	for !c.over {
		select {
		case w := <-l.words:
			if err := l.hear(out, q, w); err != nil {
				return err
			}
		case <-late.C:
			c.over = true
			c.end()
		case <-ctx.Done():
			return nil
		}
	}
	return nil
}

// again reports whether a line of the series is of a container that was
// followed, and was written when it came from there.
func (l *lines) again(ctx context.Context, out *lineWriter, q series.LineQuery, s series.Line) (bool, error) {
	c := l.containers[attemptOf{s.Attempt, s.Replica}]
	if c == nil || s.LogLine.Stream != mlaas.ContainerStream {
		return false, nil
	}
	err := l.finish(ctx, out, q, c)
	c.kept++
	return c.kept <= c.read, err
}
