package supervisor

import (
	"encoding/pem"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"github.com/coder/websocket"
	"github.com/coder/websocket/wsjson"

	"mlaas.dev/mlaas"
)

// A door is where its address says, below whatever path, and is known by the
// authority that we were told of.
func TestHTTPDoor(t *testing.T) {
	blobs := map[string]string{}
	mux := http.NewServeMux()
	mux.HandleFunc("/cluster/east/door/line", func(w http.ResponseWriter, r *http.Request) {
		c, err := websocket.Accept(w, r, nil)
		if err != nil {
			return
		}
		defer c.CloseNow()
		var up mlaas.Up
		if err := wsjson.Read(r.Context(), c, &up); err != nil || up.Hello == nil {
			t.Errorf("the first word is %+v, %v", up, err)
			return
		}
		if err := wsjson.Write(r.Context(), c, mlaas.Down{Welcome: &mlaas.Welcome{Log: 7}}); err != nil {
			t.Error(err)
		}
	})
	mux.HandleFunc("/cluster/east/door/blob/{digest}", func(w http.ResponseWriter, r *http.Request) {
		name := r.PathValue("digest")
		if r.Method == http.MethodPut {
			data, err := io.ReadAll(r.Body)
			if err != nil {
				t.Error(err)
			}
			blobs[name] = string(data)
			return
		}
		if blobs[name] == "" {
			http.NotFound(w, r)
			return
		}
		io.WriteString(w, blobs[name])
	})
	guarded := http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.Header.Get("Authorization") != "Bearer token" {
			http.Error(w, "who are you?", http.StatusUnauthorized)
			return
		}
		mux.ServeHTTP(w, r)
	})
	plain, safe := httptest.NewServer(guarded), httptest.NewTLSServer(guarded)
	defer plain.Close()
	defer safe.Close()
	ca := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: safe.Certificate().Raw})
	for _, d := range []*HTTPDoor{
		{Address: plain.URL + "/cluster/east", Token: "token"},
		{Address: safe.URL + "/cluster/east/", Token: "token", CA: ca},
	} {
		t.Run(d.Address, func(t *testing.T) {
			defer func() { d.client.CloseIdleConnections() }()
			line, err := d.Dial(t.Context())
			if err != nil {
				t.Fatal(err)
			}
			defer line.Close()
			if err := line.Send(t.Context(), mlaas.Up{Hello: &mlaas.Hello{Version: mlaas.DoorVersion}}); err != nil {
				t.Fatal(err)
			}
			if down, err := line.Receive(t.Context()); err != nil || down.Welcome == nil || down.Welcome.Log != 7 {
				t.Errorf("it answers %+v, %v", down, err)
			}
			name := digestBytes([]byte(d.Address))
			if has, err := d.Has(t.Context(), name); has || err != nil {
				t.Errorf("before it has it: %t, %v", has, err)
			}
			if err := d.Put(t.Context(), name, strings.NewReader(d.Address), int64(len(d.Address))); err != nil {
				t.Fatal(err)
			}
			r, err := d.Get(t.Context(), name, 0)
			if err != nil {
				t.Fatal(err)
			}
			defer r.Close()
			if data, err := io.ReadAll(r); err != nil || string(data) != d.Address {
				t.Errorf("it gives %q, %v", data, err)
			}
		})
	}
	foreign := &HTTPDoor{Address: safe.URL + "/cluster/east", Token: "token"}
	if _, err := foreign.Dial(t.Context()); err == nil || !strings.Contains(err.Error(), "certificate") {
		t.Errorf("a door that nobody vouches for: %v", err)
	}
}
