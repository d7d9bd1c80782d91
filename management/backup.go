package management

import (
	"fmt"
	"io"
	"net/http"
	"time"

	"mlaas.dev/mlaas"
	"mlaas.dev/mlaas/backup"
)

// backup answers GET /api/backup. What it writes ends with a manifest, so that
// an answer that is cut off is known for one.
func (m *Management) backup(w http.ResponseWriter, r *http.Request, _ *noIn) error {
	lines, here := m.Series.(backup.Series)
	if !here {
		return fmt.Errorf("what keeps lines and points here cannot be copied: %w", mlaas.ErrUnavailable)
	}
	s := backup.Source{DB: m.DB, Blob: m.Blob, Series: lines, Key: m.Key, Now: m.Now}
	if m.Info != nil {
		info, err := m.Info(r.Context())
		if err != nil {
			return err
		}
		s.Version = info.Version
	}
	w.Header().Set("Content-Type", "application/x-tar")
	w.Header().Set("Content-Disposition", `attachment; filename="mlaas-`+m.now().UTC().Format("2006-01-02T150405Z")+`.tar"`)
	began := time.Now()
	sum, err := s.Write(r.Context(), &patient{w: w, control: http.NewResponseController(w)})
	if err == nil {
		m.log().Info("a backup was made", "seq", sum.Seq, "blobs", sum.Blobs, "bytes", sum.Bytes, "took", time.Since(began))
	}
	return err
}

// patience is how long one who takes a backup may take nothing of it: it keeps
// what is copied from being deleted.
const patience = time.Minute

// A patient writer gives each write its own time.
type patient struct {
	w       io.Writer
	control *http.ResponseController
}

func (p *patient) Write(b []byte) (int, error) {
	_ = p.control.SetWriteDeadline(time.Now().Add(patience)) // where it cannot be set, there is no network
	return p.w.Write(b)
}
