package supervisor

import (
	"errors"
	"time"

	"mlaas.dev/mlaas"
)

// ErrSuspended says that the supervisor ended because it was suspended: its
// program is not over for the platform.
var ErrSuspended = errors.New("suspended")

// Suspend asks the program to end within grace and then ends the supervisor, without noting
// how the program ended: the run is not over, and will go on from its last
// checkpoint. What was not delivered stays in the folder, or is delivered first
// where the folder is fleeting. Whoever suspends ends us for good if the program
// takes too long.
func (s *Supervisor) Suspend(grace time.Duration, why string) {
	s.mu.Lock()
	s.suspended = true
	s.mu.Unlock()
	select {
	case s.stop <- mlaas.Stop{Grace: mlaas.Seconds(grace.Seconds()), Reason: why}:
	default: // it is ending already, or has not begun
	}
}

func (s *Supervisor) isSuspended() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.suspended
}
