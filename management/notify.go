package management

import (
	"context"
	"fmt"

	"mlaas.dev/mlaas"
	"mlaas.dev/mlaas/auth"
	"mlaas.dev/mlaas/queue"
	"mlaas.dev/mlaas/store"
)

// Who wants to be told when runs end says so here; booster tells them. Each
// sees what is theirs alone.

// mostSubscriptions is how many one user may have.
const mostSubscriptions = 100

type notificationsIn struct{ Paging }

func (m *Management) listNotifications(ctx context.Context, in *notificationsIn) (*Answer[List[mlaas.Subscription]], error) {
	who := auth.From(ctx)
	return pageOf(ctx, store.Subscriptions(m.DB), store.Query{Tenant: who.Tenant, Reverse: true}, in.Paging,
		func(f store.Found[mlaas.Subscription]) (mlaas.Subscription, bool, error) {
			return f.Value, f.Value.User == who.Name, nil
		})
}

type notificationIn struct {
	Body NotificationAsk
}

// A NotificationAsk says who is to be told of which ends.
type NotificationAsk struct {
	Job    string        `json:"job,omitempty" doc:"A job, by its name or id; where not said, every job" example:"mnist"`
	On     []mlaas.State `json:"on,omitempty" doc:"succeeded, failed, stopped; where not said, failed"`
	URL    string        `json:"url,omitempty" doc:"A webhook, which gets a CloudEvent" example:"https://hooks.example.org/mlaas"`
	Secret string        `json:"secret,omitempty" doc:"The name of the secret that signs what the webhook gets, as Standard Webhooks says; where not said, it is not signed"`
	Email  string        `json:"email,omitempty" doc:"A mailbox, instead of a webhook" example:"ada@example.org"`
}

func (m *Management) createNotification(ctx context.Context, in *notificationIn) (*Answer[mlaas.Subscription], store.Batch, error) {
	who, ask := auth.From(ctx), in.Body
	s := mlaas.Subscription{ID: mlaas.NewID(m.now()), Tenant: who.Tenant, User: who.Name, On: ask.On, URL: ask.URL, Secret: ask.Secret, Email: ask.Email, Created: m.stamp()}
	if s.On == nil {
		s.On = []mlaas.State{mlaas.Failed}
	}
	if err := s.Check(); err != nil {
		return nil, store.Batch{}, err
	}
	if ask.Job != "" {
		j, err := m.findJob(ctx, who.Tenant, ask.Job)
		if err != nil {
			return nil, store.Batch{}, err
		}
		s.Job = j.ID
	}
	if s.Secret != "" {
		newest, err := newestSecret(ctx, m.DB, who.Tenant, s.Secret)
		if err != nil {
			return nil, store.Batch{}, err
		}
		if newest == 0 {
			return nil, store.Batch{}, mlaas.Invalid("secret", "a secret that was set; POST /api/secret or `mlaas secret set` does", s.Secret)
		}
	}
	all, err := store.Subscriptions(m.DB).All(ctx, store.Query{Tenant: who.Tenant})
	if err != nil {
		return nil, store.Batch{}, err
	}
	mine := 0
	for _, f := range all {
		if f.Value.User == who.Name {
			mine++
		}
	}
	if mine >= mostSubscriptions {
		return nil, store.Batch{}, fmt.Errorf("%d notifications are set, which is the most: remove one first: %w", mine, mlaas.ErrTooLarge)
	}
	return &Answer[mlaas.Subscription]{Location: "/api/notification/" + s.ID, Body: s}, store.Batch{Put: []store.Row{store.Subscriptions(m.DB).Put(s, 0)}}, nil
}

type notificationIDIn struct {
	ID string `path:"id" doc:"The id of a notification"`
}

// subscription returns one of who asks.
func (m *Management) subscription(ctx context.Context, id string) (mlaas.Subscription, int64, error) {
	who := auth.From(ctx)
	s, rev, err := store.Subscriptions(m.DB).Get(ctx, who.Tenant, id)
	if err == nil && s.User != who.Name {
		err = fmt.Errorf("notification %s: %w", clip(id, 100), mlaas.ErrNotFound)
	}
	return s, rev, err
}

func (m *Management) deleteNotification(ctx context.Context, in *notificationIDIn) (*Answer[None], store.Batch, error) {
	s, rev, err := m.subscription(ctx, in.ID)
	if err != nil {
		return nil, store.Batch{}, err
	}
	return &Answer[None]{}, store.Batch{Delete: []store.Row{store.Subscriptions(m.DB).At(s.Tenant, s.ID, rev)}}, nil
}

// A NotificationTest names the delivery by which a test is sent.
type NotificationTest struct {
	Delivery string `json:"delivery" doc:"Its id, among the deliveries of the notification once it is begun"`
}

func (m *Management) testNotification(ctx context.Context, in *notificationIDIn) (*Answer[NotificationTest], store.Batch, error) {
	s, _, err := m.subscription(ctx, in.ID)
	if err != nil {
		return nil, store.Batch{}, err
	}
	id := mlaas.NewID(m.now())
	return &Answer[NotificationTest]{Body: NotificationTest{id}}, store.Batch{Tell: tells(mlaas.TestAsked{Tenant: s.Tenant, Subscription: s.ID, Delivery: id})}, nil
}

type notificationDeliveriesIn struct {
	notificationIDIn
	Paging
}

// listNotificationDeliveries lists what was sent for a notification.
func (m *Management) listNotificationDeliveries(ctx context.Context, in *notificationDeliveriesIn) (*Answer[List[mlaas.Delivery]], error) {
	s, _, err := m.subscription(ctx, in.ID)
	if err != nil {
		return nil, err
	}
	return pageOf(ctx, store.Deliveries(m.DB), store.Query{Tenant: s.Tenant, Index: "subscription=" + s.ID, Reverse: true}, in.Paging,
		func(f store.Found[mlaas.Delivery]) (mlaas.Delivery, bool, error) { return f.Value, true, nil })
}

type redeliverNotificationIn struct {
	notificationIDIn
	Delivery string `path:"delivery" doc:"The id of the event"`
}

// redeliverNotification asks booster, which alone writes deliveries, to send one
// again.
func (m *Management) redeliverNotification(ctx context.Context, in *redeliverNotificationIn) (*Answer[mlaas.Delivery], store.Batch, error) {
	s, _, err := m.subscription(ctx, in.ID)
	if err != nil {
		return nil, store.Batch{}, err
	}
	all, err := store.Deliveries(m.DB).All(ctx, store.Query{Tenant: s.Tenant, Index: "subscription=" + s.ID})
	if err != nil {
		return nil, store.Batch{}, err
	}
	for _, f := range all {
		if d := f.Value; d.ID == in.Delivery {
			return &Answer[mlaas.Delivery]{Body: d}, store.Batch{Tell: []store.Message{
				queue.Tell(mlaas.WebhookWanted{Tenant: d.Tenant, Run: d.Run, Delivery: d.ID, Again: true})}}, nil
		}
	}
	return nil, store.Batch{}, fmt.Errorf("the notification has no delivery %q: %w", clip(in.Delivery, 100), mlaas.ErrNotFound)
}
