package booster

import (
	"bytes"
	"cmp"
	"context"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"

	"mlaas.dev/mlaas"
	"mlaas.dev/mlaas/queue"
	"mlaas.dev/mlaas/store"
)

// keepDeliveries is how many deliveries of a run are kept: the newest.
const keepDeliveries = 200

// maxTries is how many tries of a delivery are told.
const maxTries = 20

// A CloudEvent is what a webhook gets: CloudEvents 1.0 in the
// structured JSON mode. It is the same at every try.
type CloudEvent struct {
	SpecVersion string    `json:"specversion"` // "1.0"
	ID          string    `json:"id"`          // of the delivery
	Source      string    `json:"source"`      // "/api/run/RUN"
	Type        string    `json:"type"`        // EventType
	Subject     string    `json:"subject"`     // as people say it: mnist/7/worker-0
	Time        time.Time `json:"time"`
	DataType    string    `json:"datacontenttype"`
	Data        any       `json:"data"` // a Notice or a RunNotice
}

// What happened.
const (
	EventType = "dev.mlaas.rule.fired.v1" // an action rule fired
	EndedType = "dev.mlaas.run.ended.v1"
	TestType  = "dev.mlaas.test.v1" // nothing: somebody tries whether it arrives
)

// deliver sends an event once, and commits how that went with what follows:
// another try, or the end. A process that dies between the two sends it again.
func (b *Booster) deliver(ctx context.Context, m mlaas.WebhookWanted) (store.Batch, error) {
	records := store.Deliveries(b.DB)
	d, rev, err := records.Get(ctx, m.Tenant, store.DeliveryKey(m.Run, m.Delivery))
	if errors.Is(err, mlaas.ErrNotFound) {
		return store.Batch{}, nil
	} else if err != nil {
		return store.Batch{}, err
	}
	if d.State != mlaas.DeliveryWaiting && !m.Again {
		return store.Batch{}, nil
	}
	e, err := b.event(ctx, d)
	if errors.Is(err, mlaas.ErrNotFound) {
		return store.Batch{}, nil
	} else if err != nil {
		return store.Batch{}, err
	}
	began := b.Now()
	status, err := b.send(ctx, d, e)
	if ctx.Err() != nil {
		return store.Batch{}, ctx.Err()
	}
	try := mlaas.DeliveryTry{Time: began.UTC(), Status: status, Took: mlaas.Seconds(max(b.Now().Sub(began), 0).Seconds())}
	if err != nil {
		try.Error = short(sentence(err))
	}
	d.Tries = append(slices.Clone(d.Tries), try)
	d.Tries = d.Tries[max(0, len(d.Tries)-maxTries):]
	d.Next = time.Time{}
	var also store.Batch
	switch p := pauses(); {
	case err == nil:
		d.State = mlaas.Delivered
	case m.Try < len(p):
		d.State, d.Next = mlaas.DeliveryWaiting, b.Now().Add(p[m.Try]).UTC()
		also.Tell = append(also.Tell, queue.TellAfter(p[m.Try], mlaas.WebhookWanted{Tenant: m.Tenant, Run: m.Run, Delivery: m.Delivery, Try: m.Try + 1}))
	default:
		d.State = mlaas.DeliveryFailed
		b.Log.Warn("a delivery was given up", "run", d.Run, "rule", d.Rule, "subscription", d.Subscription, "error", err)
		if d.Subscription != "" { // its log says so
			break
		}
		if err := b.gaveUp(ctx, mlaas.Fence{Tenant: d.Tenant, Run: d.Run, Epoch: d.Epoch, Replica: d.Replica, Incarnation: 1}, d.Rule, len(p)+1, err); err != nil {
			return store.Batch{}, err
		}
	}
	also.Put = append(also.Put, records.Put(d, rev))
	if d.State != mlaas.DeliveryWaiting {
		old, err := b.oldDeliveries(ctx, d)
		if err != nil {
			return store.Batch{}, err
		}
		also.Delete = append(also.Delete, old...)
	}
	return also, nil
}

// oldDeliveries are those of the same run that are over and beyond what is kept.
func (b *Booster) oldDeliveries(ctx context.Context, d mlaas.Delivery) (old []store.Row, err error) {
	all, err := store.Deliveries(b.DB).All(ctx, store.Query{Tenant: d.Tenant, Prefix: string(d.Run) + "/", Reverse: true})
	if err != nil {
		return nil, err
	}
	for _, f := range all[min(len(all), keepDeliveries):] {
		if f.Value.State != mlaas.DeliveryWaiting && f.Value.ID != d.ID {
			old = append(old, store.Deliveries(b.DB).At(d.Tenant, store.DeliveryKey(d.Run, f.Value.ID), f.Rev))
		}
	}
	return old, nil
}

// event is what a delivery tells; ErrNotFound where what it is about is gone.
func (b *Booster) event(ctx context.Context, d mlaas.Delivery) (CloudEvent, error) {
	e := CloudEvent{SpecVersion: "1.0", ID: d.ID, Type: EventType, Time: d.Created, DataType: "application/json"}
	if d.Run == "" {
		e.Source, e.Type, e.Subject = "/api/notification/"+d.Subscription, TestType, "test"
		e.Data = RunNotice{Text: "This is a test: what a run comes to will be told like this."}
		return e, nil
	}
	run, _, err := store.Runs(b.DB).Get(ctx, d.Tenant, string(d.Run))
	if err != nil {
		return e, err
	}
	name := fmt.Sprintf("%s/%d", run.JobName, run.Number)
	e.Source = "/api/run/" + string(d.Run)
	if d.Subscription == "" {
		e.Subject, e.Data = name+"/"+d.Replica, Notice{d.Rule, run.Job, name, d.Run, d.Replica, d.Epoch, d.Saw, d.Created}
		return e, nil
	}
	s, _, err := store.RunStates(b.DB).Get(ctx, d.Tenant, string(d.Run))
	if err != nil {
		return e, err
	}
	e.Subject, e.Type = name, EndedType
	e.Data = RunNotice{Job: run.Job, Name: name, Run: run.ID, State: s.State, Reason: s.Reason, ExitCode: s.ExitCode, Started: s.Started, Ended: s.Ended,
		Text: fmt.Sprintf("%s %s: %s", name, s.State, s.Reason)}
	return e, nil
}

// send makes one try. A webhook is signed as Standard Webhooks 1.0 says: whoever
// has the secret finds that id, time and body are ours, and how old they are.
func (b *Booster) send(ctx context.Context, d mlaas.Delivery, e CloudEvent) (status int, err error) {
	if d.Email != "" {
		return 0, b.mail(ctx, d, e)
	}
	body, err := json.Marshal(e)
	if err != nil {
		return 0, err
	}
	stamp := strconv.FormatInt(b.Now().Unix(), 10)
	header := http.Header{
		"Content-Type":      {"application/cloudevents+json; charset=utf-8"},
		"Webhook-Id":        {d.ID},
		"Webhook-Timestamp": {stamp},
	}
	if d.Secret != "" {
		if b.Secrets == nil {
			return 0, fmt.Errorf("secret %s: there are no secrets here: %w", d.Secret, mlaas.ErrNotFound)
		}
		secret, err := b.Secrets(ctx, d.Tenant, mlaas.SecretUse{Secret: d.Secret})
		if err != nil {
			return 0, fmt.Errorf("secret %s, which signs it: %w", d.Secret, err)
		}
		header.Set("Webhook-Signature", sign(secret, d.ID, stamp, body))
	}
	return b.post(ctx, d.URL, body, header)
}

// sign is an HMAC-SHA256 over id, time and body. A secret of the form
// whsec_BASE64 is the key that it encodes; any other is itself the key.
func sign(secret, id, stamp string, body []byte) string {
	key := []byte(secret)
	if text, ok := strings.CutPrefix(secret, "whsec_"); ok {
		if raw, err := base64.StdEncoding.DecodeString(text); err == nil {
			key = raw
		}
	}
	h := hmac.New(sha256.New, key)
	h.Write([]byte(id + "." + stamp + "."))
	h.Write(body)
	return "v1," + base64.StdEncoding.EncodeToString(h.Sum(nil))
}

// gaveUp writes into the history of a replica that nobody takes the webhook of
// a rule.
func (b *Booster) gaveUp(ctx context.Context, f mlaas.Fence, rule string, tries int, why error) error {
	_, err := b.change(ctx, f, func(r *mlaas.Replica) store.Batch {
		happened(r, b.Now().UTC(), fmt.Sprintf("the webhook of rule %s was not taken after %d tries: %v", rule, tries, why))
		return store.Batch{}
	})
	return known(err)
}

// toNotices is an inbox of its own, so that a webhook that does not answer
// keeps nothing waiting but other webhooks.
const toNotices = "booster.notices"

// A notice goes from booster to itself: send the webhook of a rule that fired.
// Twice: whoever listens is told twice.
type notice struct {
	Tenant  mlaas.Tenant `json:"tenant"`
	Run     mlaas.RunID  `json:"run"`
	Epoch   int          `json:"epoch"`
	Replica string       `json:"replica"`
	Rule    string       `json:"rule"`
	Saw     string       `json:"saw"`
	Time    time.Time    `json:"time"`
	Try     int          `json:"try,omitempty"` // how often it failed
}

// To is who hears the message.
func (n notice) To() string { return toNotices }

// Key is what must be handled in order: notices need no order.
func (n notice) Key() string {
	return fmt.Sprintf("%s/%d/%s/%s/%d", n.Run, n.Epoch, n.Replica, n.Rule, n.Time.UnixNano())
}

// A Notice is the JSON that a webhook gets.
type Notice struct {
	Rule    string      `json:"rule"`
	Job     mlaas.JobID `json:"job"`
	Name    string      `json:"name"` // as people say it: mnist/7
	Run     mlaas.RunID `json:"run"`
	Replica string      `json:"replica"`
	Epoch   int         `json:"epoch"`
	Saw     string      `json:"saw"`
	Time    time.Time   `json:"time"`
}

// pauses are between the tries of a webhook.
func pauses() []time.Duration {
	return []time.Duration{time.Second, 5 * time.Second, 30 * time.Second, 2 * time.Minute, 10 * time.Minute}
}

func (b *Booster) notify(ctx context.Context, n notice) (store.Batch, error) {
	run, _, err := store.Runs(b.DB).Get(ctx, n.Tenant, string(n.Run))
	if errors.Is(err, mlaas.ErrNotFound) {
		return store.Batch{}, nil
	} else if err != nil {
		return store.Batch{}, err
	}
	i := slices.IndexFunc(run.Spec.Rules, func(r mlaas.ActionRule) bool { return r.Name == n.Rule })
	if i < 0 {
		return store.Batch{}, nil
	}
	body, err := json.Marshal(Notice{n.Rule, run.Job, fmt.Sprintf("%s/%d", run.JobName, run.Number), n.Run, n.Replica, n.Epoch, n.Saw, n.Time})
	if err != nil {
		return store.Batch{}, err
	}
	_, err = b.post(ctx, run.Spec.Rules[i].URL, body, http.Header{"Content-Type": {"application/json"}})
	if err == nil || ctx.Err() != nil {
		return store.Batch{}, ctx.Err()
	}
	if p := pauses(); n.Try < len(p) {
		pause := p[n.Try]
		n.Try++
		return store.Batch{Tell: []store.Message{queue.TellAfter(pause, n)}}, nil
	}
	b.Log.Warn("a webhook was given up", "run", n.Run, "rule", n.Rule, "error", err)
	return store.Batch{}, b.gaveUp(ctx, mlaas.Fence{Tenant: n.Tenant, Run: n.Run, Epoch: n.Epoch, Replica: n.Replica, Incarnation: 1}, n.Rule, len(pauses())+1, err)
}

// post makes one request. status is 0 where nobody answered.
func (b *Booster) post(ctx context.Context, url string, body []byte, header http.Header) (status int, err error) {
	ctx, cancel := context.WithTimeout(ctx, 10*time.Second)
	defer cancel()
	r, err := http.NewRequestWithContext(ctx, http.MethodPost, url, bytes.NewReader(body))
	if err != nil {
		return 0, err
	}
	r.Header = header
	r.Header.Set("User-Agent", "mlaas")
	answer, err := b.hooks.Do(r)
	if err != nil {
		return 0, err
	}
	defer answer.Body.Close()
	if _, err := io.CopyN(io.Discard, answer.Body, 64<<10); err != nil && !errors.Is(err, io.EOF) {
		return answer.StatusCode, err
	}
	if answer.StatusCode/100 != 2 {
		return answer.StatusCode, fmt.Errorf("it answered %s", answer.Status)
	}
	return answer.StatusCode, nil
}

// webhooks is what sends them. A rule is written by a user, and its URL must
// not reach what only this machine may: the address is judged after its name
// was looked up, and nothing is followed elsewhere.
func (b *Booster) webhooks() *http.Client {
	dialer := &net.Dialer{Timeout: 5 * time.Second, Control: func(_, address string, _ syscall.RawConn) error {
		at, err := netip.ParseAddrPort(address)
		if err != nil {
			return err
		}
		if why := forbidden(at.Addr(), b.AllowLoopback); why != "" {
			return fmt.Errorf("webhooks may not go to %s: %s: %w", at.Addr(), why, mlaas.ErrForbidden)
		}
		return nil
	}}
	return &http.Client{
		Transport: cmp.Or[http.RoundTripper](b.Webhooks, &http.Transport{
			DialContext: dialer.DialContext, DisableKeepAlives: true,
			TLSHandshakeTimeout: 5 * time.Second, ResponseHeaderTimeout: 10 * time.Second,
		}),
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}
}

// forbidden says why a webhook may not go to an address; it is empty where it
// may.
func forbidden(a netip.Addr, loopback bool) string {
	a = a.WithZone("").Unmap()
	if b := a.As16(); a.Is6() {
		switch { // an address inside an address: NAT64 and 6to4
		case netip.MustParsePrefix("64:ff9b::/96").Contains(a):
			a = netip.AddrFrom4([4]byte(b[12:]))
		case netip.MustParsePrefix("2002::/16").Contains(a):
			a = netip.AddrFrom4([4]byte(b[2:6]))
		}
	}
	switch {
	case a.IsLoopback() || a.IsUnspecified():
		if !loopback {
			return "it is the platform's own machine"
		}
	case a.IsLinkLocalUnicast() || a.IsMulticast() || a.IsInterfaceLocalMulticast():
		return "it is a link-local address"
	case slices.Contains([]string{"100.100.100.200", "168.63.129.16", "192.0.0.192", "fd00:ec2::254"}, a.String()):
		return "it tells machines their secrets"
	}
	return ""
}
