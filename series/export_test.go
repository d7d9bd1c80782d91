package series

import "context"

// Seal seals everything that is there now.
func (s *Store) Seal(ctx context.Context) error {
	s.queue.exclusively(func() {
		s.mu.Lock()
		defer s.mu.Unlock()
		if s.active != nil && s.active.holds() {
			s.retire()
		}
	})
	for {
		if more, err := s.sealOldest(ctx); err != nil || !more {
			return err
		}
	}
}
