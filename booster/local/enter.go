package local

// An entrance is what `enter` needs to know to start a program: enter.json in
// the replica's folder.
type entrance struct {
	Folder  string   `json:"folder"`
	Groups  []string `json:"groups"`  // control groups to join
	Sandbox bool     `json:"sandbox"` // its own namespaces, root and user
	User    int      `json:"user"`
	Hide    string   `json:"hide"`              // of the platform: not to be seen, wherever it lies
	Devices []string `json:"devices"`           // besides the ordinary ones
	Offline bool     `json:"offline,omitempty"` // without any network
}

// exitEnter is the exit code of `enter` where it could not start the program;
// why is on descriptor 3.
const exitEnter = 125
