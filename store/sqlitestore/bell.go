package sqlitestore

import "sync"

// bells wake those who wait for a message: one for each inbox.
type bells struct {
	mu   sync.Mutex
	wait map[string]chan struct{}
}

// hear returns a channel that is closed when the bell rings next. Ask for it
// before looking at what is there: then nothing rings unheard.
func (b *bells) hear(name string) <-chan struct{} {
	b.mu.Lock()
	defer b.mu.Unlock()
	c := b.wait[name]
	if c == nil {
		if b.wait == nil {
			b.wait = map[string]chan struct{}{}
		}
		c = make(chan struct{})
		b.wait[name] = c
	}
	return c
}

func (b *bells) ring(name string) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if c := b.wait[name]; c != nil {
		close(c)
		delete(b.wait, name)
	}
}
