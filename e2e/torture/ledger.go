package main

import (
	"encoding/json"
	"fmt"
	"os"
	"sync"
)

// A Ledger is what the platform acknowledged, kept where the platform cannot
// lose it: each entry is on disk before the next request is sent.
type Ledger struct {
	mu      sync.Mutex
	file    *os.File
	entries []Entry
	byKey   map[string]string // the id that each key was answered with
	changed []string          // keys that were answered with two ids, in words
}

// An Entry is one acknowledged creation.
type Entry struct {
	Kind  string `json:"kind"` // job, version, run, stop
	Key   string `json:"key"`  // the Idempotency-Key that it was asked for with
	Job   string `json:"job"`
	ID    string `json:"id"`
	Lines int    `json:"lines,omitempty"` // that the run's program prints
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

func (l *Ledger) all() []Entry {
	l.mu.Lock()
	defer l.mu.Unlock()
	return append([]Entry(nil), l.entries...)
}

// A Tally is what a comparison of the ledger with the platform came to.
type Tally struct {
	Acknowledged, Found, Lost, Duplicated, Illegal int
	First                                          []string // the first few findings, in words
}

func (t *Tally) find(count *int, format string, args ...any) {
	*count++
	if len(t.First) < 20 {
		t.First = append(t.First, fmt.Sprintf(format, args...))
	}
}

func (t *Tally) clean() bool { return t.Lost == 0 && t.Duplicated == 0 && t.Illegal == 0 }
