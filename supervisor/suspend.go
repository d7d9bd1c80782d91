package supervisor

import (
	"errors"

	"mlaas.dev/mlaas"
)

// ErrSuspended says that the supervisor ended because it was suspended: its
// program is not over for the platform.
var ErrSuspended = errors.New("suspended")

// Suspend asks the program to end and then ends the supervisor, without noting
// how the program ended: the run is not over, and will go on from its last
// checkpoint. What was not delivered stays in the folder. Whoever suspends ends
// us for good if the program takes too long.
func (s *Supervisor) Suspend() {
	s.mu.Lock()
	s.suspended = true
	s.mu.Unlock()
	select {
	case s.stop <- mlaas.Stop{Grace: 3600, Reason: "the platform was taken down"}:
	default: // it is ending already, or has not begun
	}
}

func (s *Supervisor) isSuspended() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.suspended
}
