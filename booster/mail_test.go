package booster

import (
	"bufio"
	"fmt"
	"net"
	"net/mail"
	"strings"
	"testing"
	"time"
)

// mailbox is a server of SMTP that takes one message.
func mailbox(t *testing.T) (address string, got <-chan string) {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	out := make(chan string, 1)
	go func() {
		c, err := l.Accept()
		if err != nil {
			return
		}
		defer c.Close()
		in := bufio.NewScanner(c)
		say := func(text string) { fmt.Fprintf(c, "%s\r\n", text) }
		say("220 mailbox")
		var all strings.Builder
		for in.Scan() {
			line := in.Text()
			all.WriteString(line + "\n")
			switch word, _, _ := strings.Cut(line, " "); strings.ToUpper(word) {
			case "EHLO":
				say("250-mailbox\r\n250 AUTH PLAIN")
			case "AUTH":
				say("235 come in")
			case "DATA":
				say("354 go on")
				for in.Scan() && in.Text() != "." {
					all.WriteString(in.Text() + "\n")
				}
				say("250 taken")
			case "QUIT":
				say("221 bye")
				out <- all.String()
				return
			default:
				say("250 fine")
			}
		}
	}()
	return l.Addr().String(), out
}

func TestMail(t *testing.T) {
	address, got := mailbox(t)
	m, err := ParseMailer("smtp://ada:s3cret@" + address + "?from=mlaas@example.org")
	if err != nil {
		t.Fatal(err)
	}
	at := time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)
	if err := m.send(t.Context(), "bob@example.org", "mnist/7 failed — why?", "mnist/7 failed: ValueError: ü\n", "id1", at); err != nil {
		t.Fatal(err)
	}
	said := <-got
	for _, want := range []string{"AUTH PLAIN", "MAIL FROM:<mlaas@example.org>", "RCPT TO:<bob@example.org>", "Message-ID: <id1@example.org>", "mnist/7 failed: ValueError: =C3=BC"} {
		if !strings.Contains(said, want) {
			t.Errorf("nothing like %q was said:\n%s", want, said)
		}
	}
	_, text, _ := strings.Cut(said, "DATA\n")
	if letter, err := mail.ReadMessage(strings.NewReader(text)); err != nil || letter.Header.Get("To") != "bob@example.org" {
		t.Errorf("the message cannot be read: %v\n%s", err, text)
	}
}

func TestParseMailer(t *testing.T) {
	for text, want := range map[string]string{
		"smtp://mail.example.org?from=a@b.c":              "mail.example.org:587",
		"smtps://u:p@mail.example.org?from=a@b.c":         "mail.example.org:465",
		"smtp://mail.example.org:25?from=mlaas@b.c":       "mail.example.org:25",
		"http://mail.example.org?from=a@b.c":              "",
		"smtp://mail.example.org":                         "",
		"smtp://u:s3cret@mail.example.org:x?from=a@b.c":   "",
		"smtp://mail.example.org?from=Ada+%3Ca@b.c%3E%0A": "",
	} {
		m, err := ParseMailer(text)
		if (err == nil) != (want != "") || err == nil && m.Address != want {
			t.Errorf("%s: %+v, %v; want %q", text, m, err, want)
		}
		if err != nil && strings.Contains(err.Error(), "s3cret") {
			t.Errorf("the error tells the password: %v", err)
		}
	}
}
