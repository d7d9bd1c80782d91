package mlaas

import (
	"encoding/json"
	"time"
)

// A Draft is what is edited of a job's code and is no version yet: a folder in
// which files may be edited by several people at once. Management alone writes
// it.
type Draft struct {
	Tenant  Tenant      `json:"-"`
	Job     JobID       `json:"job"`
	Base    int         `json:"base"` // the number of the version that it was made from; 0: of none
	Seen    int         `json:"seen"` // the number of the newest version that those who edit know of
	Files   []DraftFile `json:"files"`
	Docs    int         `json:"docs"`    // texts so far: the next one's ID is one more
	Changes int         `json:"changes"` // of its files, so far: what comes with fewer is older
	Changed time.Time   `json:"changed"`
}

// SetTenant fills in what the key says.
func (d *Draft) SetTenant(t Tenant) { d.Tenant = t }

// A DraftFile is one file of a draft.
type DraftFile struct {
	File        // as it was saved or uploaded last
	Doc  string `json:"doc,omitempty"` // the ID of its text, from when it was opened
}

// A Doc is the text of a file of a draft, and what was edited last. Management
// alone writes it.
type Doc struct {
	Tenant  Tenant            `json:"-"`
	Job     JobID             `json:"job"`
	ID      string            `json:"id"`
	Version int64             `json:"version"` // edits so far
	Text    string            `json:"text"`    // with \n at the ends of lines
	CRLF    bool              `json:"crlf,omitempty"`
	Edits   []Edit            `json:"edits,omitempty"` // the newest; the last one made Version
	People  map[string]Person `json:"people,omitempty"`
}

// SetTenant fills in what the key says.
func (d *Doc) SetTenant(t Tenant) { d.Tenant = t }

// An Edit is a change of a text.
type Edit struct {
	Client  string          `json:"client"`  // who did it, a word of the editor's own
	Changes json.RawMessage `json:"changes"` // a ChangeSet of CodeMirror, in UTF-16 units
}

// A Person is who has a text open.
type Person struct {
	Name   string    `json:"name"`
	Anchor int       `json:"anchor"` // where the selection begins, in UTF-16 units
	Head   int       `json:"head"`   // where the cursor is
	Seen   time.Time `json:"seen"`
}
