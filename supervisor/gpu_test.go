package supervisor

import "testing"

func TestReadBusy(t *testing.T) {
	tests := []struct {
		text string
		want float64
		ok   bool
	}{
		{"50\n", 0.5, true},
		{"0\n100\n", 0.5, true},
		{"0\n", 0, true},
		{"[N/A]\n", 0, false},
		{"30\n[Not Supported]\n", 0, false},
		{"", 0, false},
		{"101\n", 0, false},
	}
	for _, tt := range tests {
		if got, ok := readBusy(tt.text); got != tt.want || ok != tt.ok {
			t.Errorf("readBusy(%q) = %g, %t; want %g, %t", tt.text, got, ok, tt.want, tt.ok)
		}
	}
}
