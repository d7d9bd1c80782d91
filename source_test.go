package mlaas

import (
	"errors"
	"strings"
	"testing"
)

func TestSourcesChecked(t *testing.T) {
	for source, want := range map[string]string{ // part of what it says; empty: it is right
		"dataset:mnist@3":     "",
		"https://host/file":   "",
		"s3://bucket":         "",
		"s3://bucket/a/b.csv": "",
		"s3://bucket/a/?endpoint=http://h:1&region=r":    "",
		"s3://bucket/a?version=x&path=false":             "",
		"git+https://host/repo.git":                      "",
		"git+https://host:8443/a/b.git@v1.2#data/in":     "",
		"git+https://host/repo@feature/x#subdirectory=d": "",
		"":                                       "dataset:NAME",
		"file:///etc/passwd":                     "dataset:NAME",
		"s3://":                                  "s3://BUCKET",
		"s3://bucket/a#b":                        "s3://BUCKET",
		"s3://k:hush@bucket/a":                   "$AWS_SECRET_ACCESS_KEY",
		"s3://bucket/a?endpoint=ftp://h":         "an endpoint",
		"s3://bucket/a?endpoint=http://k:hush@h": "an endpoint",
		"s3://bucket/a?create=true":              "nothing but",
		"s3://bucket/a?path=yes":                 "path=true",
		"s3://bucket/a/?version=x":               "of one object",
		"git+https://":                           "git+https://HOST",
		"git+https://host":                       "git+https://HOST",
		"git+http://host/repo":                   "git+https://HOST",
		"git+ssh://host/repo":                    "git+https://HOST",
		"git+file:///etc":                        "git+https://HOST",
		"git+https://me:hush@host/repo":          "$GIT_PASSWORD",
		"git+https://host/repo?x=y":              "git+https://HOST",
		"git+https://host/repo@":                 "a branch",
		"git+https://host/repo@--upload-pack=x":  "a branch",
		"git+https://host/repo@a..b":             "a branch",
		"git+https://host/repo@a b":              "a branch",
		"git+https://host/repo#../x":             "a folder",
		"git+https://host/repo#/x":               "a folder",
		"git+https://host/repo#a:b":              "a folder",
	} {
		err := Data{Name: "x", Source: source}.check()
		switch {
		case want == "" && err != nil:
			t.Errorf("%s says %v", source, err)
		case want != "" && (!errors.Is(err, ErrInvalid) || !strings.Contains(err.Error(), want) || !strings.Contains(err.Error(), "source")):
			t.Errorf("%s says %v, want %q", source, err, want)
		case err != nil && strings.Contains(err.Error(), "hush"):
			t.Errorf("%s tells the password: %v", source, err)
		}
	}
	r, err := ParseRepository("git+https://host:8443/a@b/c.git@feature/x#subdirectory=data/in/")
	if want := (Repository{"https://host:8443/a@b/c.git", "feature/x", "data/in"}); err != nil || r != want {
		t.Errorf("it is %+v, %v, want %+v", r, err, want)
	}
}
