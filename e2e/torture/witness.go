package main

import (
	"bufio"
	"fmt"
	"net"
	"sync"
	"time"
)

// A Witness is told by every program of the torture that it began, over a
// connection that is open as long as the program lives. So it knows what runs
// without asking the platform.
type Witness struct {
	Address string

	listener net.Listener
	mu       sync.Mutex
	changed  chan struct{}
	live     map[string]int // run and replica: programs that live
	begins   map[string]int // run, epoch and replica: programs that began
	twice    []string       // what ran twice, in words
	all      sync.WaitGroup
}

// listenWitness listens on a host of this machine.
func listenWitness(host string) (*Witness, error) {
	l, err := net.Listen("tcp", net.JoinHostPort(host, "0"))
	if err != nil {
		return nil, err
	}
	w := &Witness{Address: l.Addr().String(), listener: l, changed: make(chan struct{}), live: map[string]int{}, begins: map[string]int{}}
	w.all.Go(func() {
		for {
			conn, err := l.Accept()
			if err != nil {
				return
			}
			w.all.Go(func() { w.hear(conn) })
		}
	})
	return w, nil
}

// Close listens no more. Programs that live are let go.
func (w *Witness) Close() { w.listener.Close() }

func (w *Witness) hear(conn net.Conn) {
	defer conn.Close()
	r := bufio.NewReader(conn)
	line, err := r.ReadString('\n')
	if err != nil {
		return // it ended before it said anything: it did nothing either
	}
	var run, replica string
	var epoch, pid int
	if _, err := fmt.Sscan(line, &run, &epoch, &replica, &pid); err != nil {
		return
	}
	w.note(run, epoch, replica, 1)
	_, _ = r.ReadByte() // the kernel ends this when the process ends
	w.note(run, epoch, replica, -1)
}

func (w *Witness) note(run string, epoch int, replica string, change int) {
	w.mu.Lock()
	defer w.mu.Unlock()
	one := run + " " + replica
	if change > 0 {
		attempt := fmt.Sprintf("%s, attempt %d", one, epoch)
		if w.begins[attempt]++; w.begins[attempt] > 1 {
			w.twice = append(w.twice, fmt.Sprintf("the program of %s began %d times", attempt, w.begins[attempt]))
		}
		if w.live[one] > 0 {
			w.twice = append(w.twice, fmt.Sprintf("the program of %s began while one of it was alive", attempt))
		}
	}
	if w.live[one] += change; w.live[one] == 0 {
		delete(w.live, one)
	}
	close(w.changed)
	w.changed = make(chan struct{})
}

// ranTwice returns what ran twice since it was last asked, in words.
func (w *Witness) ranTwice() []string {
	w.mu.Lock()
	defer w.mu.Unlock()
	t := w.twice
	w.twice = nil
	return t
}

// alone waits until no program lives, and returns those that do after the
// patience.
func (w *Witness) alone(patience time.Duration) (left []string) {
	late := time.After(patience)
	for {
		w.mu.Lock()
		left = nil
		for one := range w.live {
			left = append(left, one)
		}
		changed := w.changed
		w.mu.Unlock()
		if len(left) == 0 {
			return nil
		}
		select {
		case <-changed:
		case <-late:
			return left
		}
	}
}
