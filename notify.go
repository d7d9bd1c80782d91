package mlaas

import (
	"net/mail"
	"slices"
	"strings"
	"time"
)

// A Subscription says who is told when runs end: one address of somebody, for
// one job or for all. Management alone writes it.
type Subscription struct {
	ID      string    `json:"id"`
	Tenant  Tenant    `json:"-"`
	User    string    `json:"user"`          // whose it is
	Job     JobID     `json:"job,omitempty"` // empty: of every job
	On      []State   `json:"on"`            // the ends that it is about
	URL     string    `json:"url,omitempty"` // a webhook, which gets a CloudEvent; or
	Secret  string    `json:"secret,omitempty"`
	Email   string    `json:"email,omitempty"`
	Created time.Time `json:"created"`
}

// SetTenant fills in what the key says.
func (s *Subscription) SetTenant(t Tenant) { s.Tenant = t }

// Ends are the states in which a run ends.
var Ends = []State{Succeeded, Failed, Stopped}

// Check reports the first field that is wrong.
func (s Subscription) Check() error {
	if len(s.On) == 0 {
		return Invalid("on", "at least one of succeeded, failed, stopped", "empty")
	}
	for _, e := range s.On {
		if !slices.Contains(Ends, e) {
			return Invalid("on", "succeeded, failed or stopped", string(e))
		}
	}
	switch {
	case (s.URL == "") == (s.Email == ""):
		return Invalid("url", "either url or email", s.URL)
	case s.URL != "" && !strings.HasPrefix(s.URL, "http://") && !strings.HasPrefix(s.URL, "https://"):
		return Invalid("url", "http:// or https://", s.URL)
	case s.URL == "" && s.Secret != "":
		return Invalid("secret", "nothing: a webhook alone is signed", s.Secret)
	case s.Secret != "":
		return CheckName("secret", s.Secret)
	case s.Email != "":
		if a, err := mail.ParseAddress(s.Email); err != nil || a.Address != s.Email {
			return Invalid("email", "an address such as ada@example.org", s.Email)
		}
	}
	return nil
}

// Wants reports whether whoever has s wants to be told that a run of a job
// ended so.
func (s Subscription) Wants(job JobID, end State) bool {
	return (s.Job == "" || s.Job == job) && slices.Contains(s.On, end)
}

// A SavedView is a page as somebody has arranged it: its filter, order and
// columns. Management alone writes it.
type SavedView struct {
	Tenant  Tenant    `json:"-"`
	User    string    `json:"user"`
	Name    string    `json:"name"`
	Page    string    `json:"page"`   // its path, such as "/jobs"
	Search  string    `json:"search"` // what stands behind ? in its address
	Created time.Time `json:"created"`
}

// SetTenant fills in what the key says.
func (v *SavedView) SetTenant(t Tenant) { v.Tenant = t }
