package booster_test

import (
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"sync/atomic"
	"testing"

	"mlaas.dev/mlaas/booster"
)

// Who calls at a process that does not serve its cluster finds another one
// behind a balancer: that chooses for each connection, so a new one is made.
func TestDoorOfOthers(t *testing.T) {
	var calls atomic.Int32
	s := httptest.NewUnstartedServer((&booster.Fleet{}).Handler())
	s.Config.ConnState = func(_ net.Conn, state http.ConnState) {
		if state == http.StateNew {
			calls.Add(1)
		}
	}
	s.Start()
	defer s.Close()
	for range 3 {
		answer, err := s.Client().Get(s.URL + "/cluster/east/door/line")
		if err != nil {
			t.Fatal(err)
		}
		text, err := io.ReadAll(answer.Body)
		answer.Body.Close()
		if err != nil || answer.StatusCode != http.StatusServiceUnavailable || answer.Header.Get("Retry-After") == "" {
			t.Errorf("%s %s, %v; want that it is to be asked again", answer.Status, text, err)
		}
	}
	if n := calls.Load(); n != 3 {
		t.Errorf("3 calls took %d connections, want one each", n)
	}
}
