package store

import "context"

// A Confirmer is a Driver that shows what may still be lost: a commit is seen
// by others before it is acknowledged.
type Confirmer interface {
	// Confirm returns when all that was read before it is as safe as what was
	// acknowledged. It is mlaas.ErrUnavailable if that is not so yet.
	Confirm(ctx context.Context) error
}

// Confirm is that of db; where a driver shows only what is safe, it is nothing.
// Decisions that end in a commit need none: the commit confirms what it stands
// on. What is told to somebody outside does.
func Confirm(ctx context.Context, db Driver) error {
	if c, ok := db.(Confirmer); ok {
		return c.Confirm(ctx)
	}
	return nil
}
