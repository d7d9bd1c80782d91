package main

import (
	"encoding/json"
	"fmt"
	"os"
	"sync"
	"time"
)

// A Ledger is what the platform acknowledged, kept where the platform cannot
// lose it: each entry is on disk before the next request of that client is
// sent.
type Ledger struct {
	mu      sync.Mutex
	file    *os.File
	entries []Entry
	byKey   map[string]string // the id that each key was answered with
	changed []string          // keys that were answered with two ids, in words
}

// An Entry is one thing that was acknowledged, and what reading it back must
// show.
type Entry struct {
	Kind     string `json:"kind"` // job, version, run, stop, blob, dataset, register, seen
	Key      string `json:"key"`  // what it was asked for with; the same thing once
	Job      string `json:"job,omitempty"`
	ID       string `json:"id"`
	Name     string `json:"name,omitempty"`
	Digest   string `json:"digest,omitempty"`   // sha256 of the bytes
	Lines    int    `json:"lines,omitempty"`    // that the run's program prints, or that were seen of its log
	Revision int64  `json:"revision,omitempty"` // of a register
	Value    int64  `json:"value,omitempty"`
	Fault    string `json:"fault"` // during which it was acknowledged

	Asked time.Time `json:"asked,omitzero"` // of a stop: when it was asked for first
}

func openLedger(path string) (*Ledger, error) {
	f, err := os.OpenFile(path, os.O_CREATE|os.O_WRONLY|os.O_APPEND, 0o600)
	return &Ledger{file: f, byKey: map[string]string{}}, err
}

func (l *Ledger) write(e Entry) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	if id, again := l.byKey[e.Key]; again {
		if id != e.ID {
			l.changed = append(l.changed, fmt.Sprintf("%s was answered with %s and later with %s", e.Key, id, e.ID))
		}
		return nil
	}
	l.byKey[e.Key] = e.ID
	data, err := json.Marshal(e)
	if err != nil {
		return err
	}
	if _, err := l.file.Write(append(data, '\n')); err != nil {
		return err
	}
	l.entries = append(l.entries, e)
	return l.file.Sync()
}

// since returns the entries from the nth on.
func (l *Ledger) since(n int) []Entry {
	l.mu.Lock()
	defer l.mu.Unlock()
	return append([]Entry(nil), l.entries[n:]...)
}

func (l *Ledger) len() int {
	l.mu.Lock()
	defer l.mu.Unlock()
	return len(l.entries)
}

// answeredTwice returns what was answered with two ids since it was last
// asked, in words.
func (l *Ledger) answeredTwice() []string {
	l.mu.Lock()
	defer l.mu.Unlock()
	c := l.changed
	l.changed = nil
	return c
}

// A Tally is what a comparison of the ledger with the platform came to.
type Tally struct {
	Acknowledged, Found, Lost, Duplicated, Illegal, Told int

	mu    sync.Mutex
	First []string // the first few findings, in words
}

const findings = 20

func (t *Tally) find(count *int, format string, args ...any) {
	t.mu.Lock()
	defer t.mu.Unlock()
	*count++
	if len(t.First) < findings {
		t.First = append(t.First, fmt.Sprintf(format, args...))
	}
}

func (t *Tally) lost(format string, args ...any) { t.find(&t.Lost, "lost: "+format, args...) }
func (t *Tally) duplicated(format string, args ...any) {
	t.find(&t.Duplicated, "duplicated: "+format, args...)
}
func (t *Tally) illegal(format string, args ...any) { t.find(&t.Illegal, "illegal: "+format, args...) }

func (t *Tally) clean() bool { return t.Lost == 0 && t.Duplicated == 0 && t.Illegal == 0 }

// add adds what o came to.
func (t *Tally) add(o *Tally) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.Acknowledged += o.Acknowledged
	t.Found += o.Found
	t.Lost += o.Lost
	t.Duplicated += o.Duplicated
	t.Illegal += o.Illegal
	t.Told += o.Told
	t.First = append(t.First, o.First...)
	t.First = t.First[:min(len(t.First), findings)]
}
