package kube

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"net/url"
	"strings"

	apierrors "k8s.io/apimachinery/pkg/api/errors"

	"mlaas.dev/mlaas"
)

// A fault is what an API server answers, or that it does not, as a sentence
// with the kinds that it has for the caller: the first is the nearest.
type fault struct {
	sentence string
	kinds    []error
}

func (f *fault) Error() string   { return f.sentence }
func (f *fault) Unwrap() []error { return f.kinds }

// fault tells an error of the client so that a user or an administrator knows
// what to do. An error of the cluster, rather than of what was asked, is also
// ErrUnavailable: asking again later may help, and nobody's job is at fault.
func (e *Executor) fault(err error) error {
	say := func(format string, args []any, kinds ...error) error {
		return &fault{fmt.Sprintf(format, args...), kinds}
	}
	var (
		known   *fault
		status  apierrors.APIStatus
		foreign x509.UnknownAuthorityError
		expired x509.CertificateInvalidError
		host    x509.HostnameError
		cert    *tls.CertificateVerificationError
		dial    *url.Error
	)
	switch {
	case err == nil, errors.As(err, &known):
		return err
	case errors.Is(err, context.Canceled), errors.Is(err, context.DeadlineExceeded):
		return err
	case errors.As(err, &status):
		return refusal(status.Status().Message, err)
	case errors.As(err, &foreign):
		return say("the certificate of %s is signed by an authority that the kubeconfig does not name", []any{e.server()}, mlaas.ErrUnavailable)
	case errors.As(err, &expired) && expired.Reason == x509.Expired:
		return say("the certificate of %s is not valid now: %s", []any{e.server(), expired.Detail}, mlaas.ErrUnavailable)
	case errors.As(err, &host):
		return say("the certificate of %s is of another host: %v", []any{e.server(), host}, mlaas.ErrUnavailable)
	case errors.As(err, &cert):
		return say("the certificate of %s cannot be trusted: %v", []any{e.server(), cert.Err}, mlaas.ErrUnavailable)
	case strings.Contains(err.Error(), "remote error: tls: "):
		_, why, _ := strings.Cut(err.Error(), "remote error: tls: ")
		return say("%s refuses our certificate (%s): give the cluster a new kubeconfig", []any{e.server(), why}, mlaas.ErrUnauthorized, mlaas.ErrUnavailable)
	case strings.Contains(err.Error(), "getting credentials: "):
		_, why, _ := strings.Cut(err.Error(), "getting credentials: ")
		return say("the command that makes credentials fails: %s", []any{why}, mlaas.ErrUnauthorized, mlaas.ErrUnavailable)
	case errors.As(err, &dial):
		return say("%s does not answer: %v", []any{e.server(), dial.Err}, mlaas.ErrUnavailable)
	}
	return say("%s does not answer as it should: %v", []any{e.server(), err}, mlaas.ErrUnavailable)
}

// refusal is an answer that says no.
func refusal(text string, err error) error {
	say := func(sentence string, kinds ...error) error { return &fault{sentence, kinds} }
	after := func(mark string) string {
		_, rest, _ := strings.Cut(text, mark)
		return rest
	}
	switch {
	case apierrors.IsUnauthorized(err):
		return say("the API server does not know our credentials: they are wrong or have expired, give the cluster a new kubeconfig", mlaas.ErrUnauthorized, mlaas.ErrUnavailable)
	case strings.Contains(text, "denied the request"):
		return say("an admission webhook denied it: "+strings.TrimPrefix(after("admission webhook "), " "), mlaas.ErrForbidden)
	case strings.Contains(text, "failed calling webhook"):
		return say("an admission webhook does not answer: "+after("failed calling webhook "), mlaas.ErrUnavailable)
	case strings.Contains(text, "exceeded quota: "):
		return say("the quota of its namespace is used up: "+after("exceeded quota: "), mlaas.ErrTooMany, mlaas.ErrUnavailable)
	case strings.Contains(text, "violates PodSecurity"):
		return say("the security rules of its namespace do not let it in: "+after("violates "), mlaas.ErrForbidden)
	case strings.Contains(text, "is being terminated"), strings.Contains(text, "namespaces ") && apierrors.IsNotFound(err):
		return say("its namespace is not there or is being deleted: "+text, mlaas.ErrUnavailable)
	case apierrors.IsForbidden(err) && strings.Contains(text, " cannot "):
		return say("our credentials may not do this: "+text, mlaas.ErrUnauthorized, mlaas.ErrUnavailable)
	case apierrors.IsForbidden(err):
		return say("the cluster forbids it: "+text, mlaas.ErrForbidden)
	case apierrors.IsInvalid(err), apierrors.IsBadRequest(err), apierrors.IsRequestEntityTooLargeError(err):
		return say("the cluster does not take it: "+text, mlaas.ErrInvalid)
	case apierrors.IsNotFound(err), apierrors.IsGone(err):
		return say(text, mlaas.ErrNotFound)
	case apierrors.IsConflict(err), apierrors.IsAlreadyExists(err):
		return say(text, mlaas.ErrConflict)
	}
	return say("the API server says: "+text, mlaas.ErrUnavailable)
}
