package mlaas

import (
	"net/url"
	"path"
	"regexp"
	"strings"
)

// Fetched is what a source gave that may give something else tomorrow: enough
// to fetch the same again, or to notice that it is not the same.
type Fetched struct {
	Name    string `json:"name"`
	Source  string `json:"source"`
	Tree    Digest `json:"tree"` // of its files, as the JSON of a [Tree] has it; the tree itself is not kept
	Files   int    `json:"files"`
	Size    Bytes  `json:"size"`
	Commit  string `json:"commit,omitempty"`  // of a repository
	ETag    string `json:"etag,omitempty"`    // of one object or address, as its server has it
	Version string `json:"version,omitempty"` // of one object, where its bucket keeps versions
}

// A Repository is git+https://HOST/PATH[@REF][#FOLDER]: one folder of one
// commit.
type Repository struct {
	URL    string // https://HOST/PATH
	Ref    string // a branch, a tag or a whole commit id; empty: what the repository takes as its newest
	Folder string // empty: all of it
}

var (
	refRule    = regexp.MustCompile(`^[A-Za-z0-9_][A-Za-z0-9_./+-]*$`)
	bucketRule = regexp.MustCompile(`^[A-Za-z0-9][A-Za-z0-9._-]{1,62}$`)
)

// ParseRepository reads a source that begins with git+https://.
func ParseRepository(source string) (r Repository, err error) {
	const want = "git+https://HOST/PATH, with @BRANCH, @TAG or @COMMIT and #FOLDER where they are needed"
	u, err := url.Parse(source)
	if err != nil || u.Scheme != "git+https" || u.Hostname() == "" || strings.Trim(u.Path, "/") == "" || u.RawQuery != "" {
		return r, Invalid("source", want, redacted(source))
	}
	if u.User != nil {
		return r, Invalid("source", "no user and no password in it: they are secrets of the environment, $GIT_USERNAME and $GIT_PASSWORD", u.Redacted())
	}
	u.Scheme = "https"
	if u.Fragment != "" {
		r.Folder = path.Clean(strings.TrimPrefix(u.Fragment, "subdirectory="))
		if r.Folder == "." || r.Folder == ".." || strings.HasPrefix(r.Folder, "../") || strings.HasPrefix(r.Folder, "/") || strings.ContainsAny(r.Folder, ":\x00") {
			return r, Invalid("source", "a folder of the repository after the #", u.Fragment)
		}
		u.Fragment = ""
	}
	if at := strings.LastIndex(u.Path, "@"); at >= 0 {
		r.Ref = u.Path[at+1:]
		if !refRule.MatchString(r.Ref) || strings.Contains(r.Ref, "..") || strings.HasSuffix(r.Ref, "/") || strings.HasSuffix(r.Ref, ".lock") {
			return r, Invalid("source", "a branch, a tag or a whole commit id after the @", r.Ref)
		}
		u.Path, u.RawPath = u.Path[:at], ""
	}
	r.URL = u.String()
	return r, nil
}

// checkBucket reports what is wrong with a source that begins with s3://. What
// is right is an address of package internal/bucket without keys.
func checkBucket(source string) error {
	const want = "s3://BUCKET/KEY, or s3://BUCKET/FOLDER/, with ?endpoint=https://HOST&region=NAME where it is not Amazon's"
	u, err := url.Parse(source)
	if err != nil || u.Fragment != "" || !bucketRule.MatchString(u.Host) {
		return Invalid("source", want, redacted(source))
	}
	if u.User != nil {
		return Invalid("source", "no keys in it: they are secrets of the environment, $AWS_ACCESS_KEY_ID and $AWS_SECRET_ACCESS_KEY", u.Redacted())
	}
	q, err := url.ParseQuery(u.RawQuery)
	if err != nil {
		return Invalid("source", want, source)
	}
	for name, values := range q {
		switch name {
		case "endpoint":
			e, err := url.Parse(values[0])
			if err != nil || e.Scheme != "https" && e.Scheme != "http" || e.Host == "" || strings.Trim(e.Path, "/") != "" || e.User != nil {
				return Invalid("source", "an endpoint such as https://s3.example.com", redacted(values[0]))
			}
		case "path":
			if values[0] != "true" && values[0] != "false" {
				return Invalid("source", "path=true or path=false", values[0])
			}
		case "region":
		case "version":
			if u.Path == "" || strings.HasSuffix(u.Path, "/") {
				return Invalid("source", "a version of one object, not of a folder", source)
			}
		default:
			return Invalid("source", "nothing but endpoint, region, path and version after the ?", name)
		}
	}
	return nil
}

// redacted is a URL without a password, also where it is no URL.
func redacted(text string) string {
	if u, err := url.Parse(text); err == nil {
		return u.Redacted()
	}
	if _, after, ok := strings.Cut(text, "@"); ok {
		return "...@" + after
	}
	return text
}
