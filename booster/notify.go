package booster

import (
	"bytes"
	"context"
	"crypto/sha256"
	"crypto/tls"
	"encoding/hex"
	"errors"
	"fmt"
	"mime"
	"mime/quotedprintable"
	"net"
	"net/mail"
	"net/smtp"
	"net/url"
	"strings"
	"time"

	"mlaas.dev/mlaas"
	"mlaas.dev/mlaas/queue"
	"mlaas.dev/mlaas/store"
)

// A RunNotice is what whoever wants to know is told of the end of a run.
type RunNotice struct {
	Text     string      `json:"text"` // the whole in a sentence
	Job      mlaas.JobID `json:"job,omitempty"`
	Name     string      `json:"name,omitempty"` // as people say it: mnist/7
	Run      mlaas.RunID `json:"run,omitempty"`
	State    mlaas.State `json:"state,omitempty"`
	Reason   string      `json:"reason,omitempty"`
	ExitCode *int        `json:"exitCode,omitempty"`
	Started  *time.Time  `json:"started,omitempty"`
	Ended    *time.Time  `json:"ended,omitempty"`
}

// runEnded makes a delivery for each who wants to know of the end of a run.
func (b *Booster) runEnded(ctx context.Context, m mlaas.RunEnded) (also store.Batch, err error) {
	run, _, err := store.Runs(b.DB).Get(ctx, m.Tenant, string(m.Run))
	if err == nil {
		var s mlaas.RunState
		if s, _, err = store.RunStates(b.DB).Get(ctx, m.Tenant, string(m.Run)); err == nil {
			return b.deliveriesOf(ctx, run, s)
		}
	}
	if errors.Is(err, mlaas.ErrNotFound) {
		return also, nil
	}
	return also, err
}

func (b *Booster) deliveriesOf(ctx context.Context, run mlaas.Run, s mlaas.RunState) (also store.Batch, err error) {
	all, err := store.Subscriptions(b.DB).All(ctx, store.Query{Tenant: run.Tenant})
	if err != nil {
		return also, err
	}
	for _, f := range all {
		if !f.Value.Wants(run.Job, s.State) {
			continue
		}
		// The same at each hearing, so that nobody is told of one end by two ids.
		sum := sha256.Sum256([]byte(string(run.ID) + "/" + f.Value.ID))
		if err := b.tellOf(ctx, &also, f.Value, run.ID, hex.EncodeToString(sum[:13])); err != nil {
			return also, err
		}
	}
	return also, nil
}

// testAsked makes a delivery of nothing.
func (b *Booster) testAsked(ctx context.Context, m mlaas.TestAsked) (also store.Batch, err error) {
	s, _, err := store.Subscriptions(b.DB).Get(ctx, m.Tenant, m.Subscription)
	if errors.Is(err, mlaas.ErrNotFound) {
		return also, nil
	}
	if err == nil {
		err = b.tellOf(ctx, &also, s, "", m.Delivery)
	}
	return also, err
}

// tellOf makes a delivery, unless it was made before.
func (b *Booster) tellOf(ctx context.Context, also *store.Batch, s mlaas.Subscription, run mlaas.RunID, id string) error {
	_, _, err := store.Deliveries(b.DB).Get(ctx, s.Tenant, store.DeliveryKey(run, id))
	if !errors.Is(err, mlaas.ErrNotFound) {
		return err
	}
	d := mlaas.Delivery{ID: id, Tenant: s.Tenant, Run: run, Subscription: s.ID, URL: s.URL, Secret: s.Secret, Email: s.Email,
		State: mlaas.DeliveryWaiting, Tries: []mlaas.DeliveryTry{}, Created: b.Now().UTC()}
	also.Put = append(also.Put, store.Deliveries(b.DB).Put(d, 0))
	also.Tell = append(also.Tell, queue.Tell(mlaas.WebhookWanted{Tenant: s.Tenant, Run: run, Delivery: id}))
	return nil
}

// A Mailer sends e-mail by a server of SMTP.
type Mailer struct {
	Address  string // host:port
	From     string // the sender
	User     string // empty: the server asks for none
	Password string
	TLS      bool // from the first byte on; else it is begun where the server can
}

// mailWithin is how long a server may take for one message.
const mailWithin = 30 * time.Second

// ParseMailer reads smtp://USER:PASSWORD@HOST:PORT?from=ADDRESS; smtps:// is TLS
// from the first byte on.
func ParseMailer(text string) (*Mailer, error) {
	const want = "smtp://USER:PASSWORD@HOST:587?from=ADDRESS, or smtps://"
	u, err := url.Parse(text)
	if err != nil { // it quotes the URL, which has a password
		return nil, mlaas.Invalid("url", want, "no URL")
	}
	m := &Mailer{Address: u.Host, From: u.Query().Get("from"), User: u.User.Username(), TLS: u.Scheme == "smtps"}
	m.Password, _ = u.User.Password()
	switch {
	case u.Scheme != "smtp" && u.Scheme != "smtps":
		return nil, mlaas.Invalid("url", want, u.Scheme+"://")
	case u.Hostname() == "":
		return nil, mlaas.Invalid("url", want, "without a host")
	case u.Port() == "" && m.TLS:
		m.Address = net.JoinHostPort(u.Hostname(), "465")
	case u.Port() == "":
		m.Address = net.JoinHostPort(u.Hostname(), "587")
	}
	if a, err := mail.ParseAddress(m.From); err != nil || a.Address != m.From {
		return nil, mlaas.Invalid("url", want, "with the sender "+m.From)
	}
	return m, nil
}

// mail sends an event as an e-mail.
func (b *Booster) mail(ctx context.Context, d mlaas.Delivery, e CloudEvent) error {
	if b.Mail == nil {
		return fmt.Errorf("this platform knows no mail server; its operator sets one with MLAAS_SMTP: %w", mlaas.ErrUnavailable)
	}
	n, _ := e.Data.(RunNotice)
	subject := "mlaas: a test"
	if n.Name != "" {
		subject = fmt.Sprintf("%s %s", n.Name, n.State)
	}
	return b.Mail.send(ctx, d.Email, subject, n.Text+"\n", d.ID, e.Time)
}

// send hands one message to the server. The same id is the same message, which
// mailboxes show once.
func (m *Mailer) send(ctx context.Context, to, subject, text, id string, at time.Time) error {
	host, _, err := net.SplitHostPort(m.Address)
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, mailWithin)
	defer cancel()
	c, err := (&net.Dialer{}).DialContext(ctx, "tcp", m.Address)
	if err != nil {
		return err
	}
	defer c.Close()
	if until, ok := ctx.Deadline(); ok {
		if err := c.SetDeadline(until); err != nil {
			return err
		}
	}
	if m.TLS {
		c = tls.Client(c, &tls.Config{ServerName: host})
	}
	s, err := smtp.NewClient(c, host)
	if err != nil {
		return err
	}
	defer s.Close()
	if can, _ := s.Extension("STARTTLS"); can && !m.TLS {
		if err := s.StartTLS(&tls.Config{ServerName: host}); err != nil {
			return err
		}
	}
	if m.User != "" {
		if err := s.Auth(smtp.PlainAuth("", m.User, m.Password, host)); err != nil {
			return fmt.Errorf("the mail server does not let us in: %w", err)
		}
	}
	if err := s.Mail(m.From); err != nil {
		return err
	}
	if err := s.Rcpt(to); err != nil {
		return err
	}
	w, err := s.Data()
	if err != nil {
		return err
	}
	if _, err := w.Write(m.message(to, subject, text, id, at)); err != nil {
		return err
	}
	if err := w.Close(); err != nil { // the server has it from here on
		return err
	}
	_ = s.Quit() // whatever it says to that
	return nil
}

func (m *Mailer) message(to, subject, text, id string, at time.Time) []byte {
	var b bytes.Buffer
	_, domain, _ := strings.Cut(m.From, "@")
	for _, h := range [][2]string{
		{"From", m.From}, {"To", to}, {"Subject", mime.QEncoding.Encode("utf-8", subject)}, {"Date", at.Format(time.RFC1123Z)},
		{"Message-ID", "<" + id + "@" + domain + ">"}, {"Auto-Submitted", "auto-generated"}, {"MIME-Version", "1.0"},
		{"Content-Type", "text/plain; charset=utf-8"}, {"Content-Transfer-Encoding", "quoted-printable"},
	} {
		fmt.Fprintf(&b, "%s: %s\r\n", h[0], h[1])
	}
	b.WriteString("\r\n")
	q := quotedprintable.NewWriter(&b)
	_, _ = q.Write([]byte(text)) // a buffer takes everything
	_ = q.Close()
	return b.Bytes()
}
