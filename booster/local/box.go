package local

import (
	"os"
	"path/filepath"
	"slices"

	"mlaas.dev/mlaas/supervisor"
)

// boxUser is whom a command in a box runs as: no replica is.
const boxUser = firstUser + manyUsers

// A Box is a sandbox without a replica and without a network, for a command
// that only reads what lies in its folder.
type Box struct {
	Code  string   // the folder of what it reads
	Enter []string // called as ENTER --see=PATH ... -- COMMAND; empty: there are no sandboxes here

	folder string
}

// NewBox makes a box below dir, by the mlaas program binary. Who asked closes it.
func NewBox(dir, binary string) (b *Box, err error) {
	if err := os.MkdirAll(dir, 0o711); err != nil {
		return nil, err
	}
	b = &Box{}
	if b.folder, err = os.MkdirTemp(dir, "box-*"); err != nil { // 0700
		return nil, err
	}
	b.Code = filepath.Join(b.folder, supervisor.CodeDir)
	for _, name := range slices.Concat(supervisor.Writable, supervisor.ReadOnly, []string{rootDir}) {
		if err := os.Mkdir(filepath.Join(b.folder, name), 0o755); err != nil {
			b.Close()
			return nil, err
		}
	}
	if ok, _ := canSandbox(); !ok {
		return b, nil
	}
	file := filepath.Join(b.folder, enterFile)
	in := entrance{Folder: b.folder, Sandbox: true, User: boxUser, Hide: dir, Offline: true}
	if err := supervisor.WriteFile(file, in); err != nil {
		b.Close()
		return nil, err
	}
	b.Enter = []string{binary, "enter", file}
	return b, nil
}

// Close removes the box and what is in it.
func (b *Box) Close() { os.RemoveAll(b.folder) }
