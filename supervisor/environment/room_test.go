package environment

import "testing"

// What a program says of a full disk is understood, in whose words ever.
func TestSaysNoRoom(t *testing.T) {
	tests := []struct {
		said string
		want bool
	}{
		{"OSError: [Errno 28] No space left on device", true},
		{"error: failed to write: No space left on device (os error 28)", true},
		{"OSError: [Errno 122] Disk quota exceeded", true},
		{"SyntaxError: invalid syntax", false},
		{"", false},
	}
	for _, tt := range tests {
		if got := saysNoRoom([]byte(tt.said)); got != tt.want {
			t.Errorf("%q: %v, want %v", tt.said, got, tt.want)
		}
	}
}
