package management

import (
	"context"
	"encoding/json"
	"fmt"
	"strconv"

	"mlaas.dev/mlaas"
)

// A ParkedMessage is one between the services that was given up, because its
// handling failed again and again. Nothing of what it asks for was done.
type ParkedMessage struct {
	ID         int64           `json:"id"`
	To         string          `json:"to" doc:"The service that could not handle it" example:"contractor"`
	Subject    string          `json:"subject" doc:"What it says" example:"RunAsked"`
	Key        string          `json:"key" doc:"What it is about, such as the id of a run"`
	Deliveries int             `json:"deliveries"`
	Why        string          `json:"why" doc:"What failed the last time"`
	Body       json.RawMessage `json:"body"`
}

type messagesIn struct{ Paging }

// listMessages lists the messages that were given up.
func (m *Management) listMessages(ctx context.Context, in *messagesIn) (*Answer[List[ParkedMessage]], error) {
	parked, err := m.DB.Parked(ctx)
	if err != nil {
		return nil, err
	}
	all := make([]ParkedMessage, len(parked))
	for i, c := range parked {
		all[i] = ParkedMessage{c.ID, c.Message.To, c.Message.Subject, c.Message.Key, c.Delivery, c.Why, c.Message.Body}
	}
	return part(all, in.Paging)
}

type messageIn struct {
	ID string `path:"id" doc:"The id of a message" example:"17"`
}

// requeueMessage delivers a message again; doing so twice is an error, as the
// second finds it no longer given up.
func (m *Management) requeueMessage(ctx context.Context, in *messageIn) (*Answer[None], error) {
	id, err := strconv.ParseInt(in.ID, 10, 64)
	if err != nil {
		return nil, fmt.Errorf("there is no message %q: %w", in.ID, mlaas.ErrNotFound)
	}
	return &Answer[None]{}, m.DB.Requeue(ctx, id)
}
