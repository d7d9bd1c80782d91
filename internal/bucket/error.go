package bucket

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"strings"

	"github.com/minio/minio-go/v7"

	"mlaas.dev/mlaas"
)

// What servers say when they have no room.
var noRoom = []string{"QuotaExceeded", "InsufficientStorage", "XMinioStorageFull", "XMinioAdminBucketQuotaExceeded", "StorageFull", "NoSpaceLeft"}

// ErrNone says that there is no such bucket.
var ErrNone = fmt.Errorf("there is no such bucket: %w", mlaas.ErrUnavailable)

// Error gives what went wrong its kind, and a sentence that says what to set
// where a setting is wrong.
func (b *Bucket) Error(err error) error {
	if err == nil || errors.Is(err, context.Canceled) || errors.Is(err, context.DeadlineExceeded) {
		return err
	}
	if _, ok := errors.AsType[*mlaas.Kind](err); ok {
		return err
	}
	said, ok := errors.AsType[minio.ErrorResponse](err)
	if !ok {
		return fmt.Errorf("bucket %s at %s cannot be reached: %w: %w", b.Bucket, b.Server, err, mlaas.ErrUnavailable)
	}
	at := fmt.Sprintf("bucket %s at %s", b.Bucket, b.Server)
	switch code := said.Code; {
	case code == "NoSuchKey" || code == "NoSuchVersion":
		return fmt.Errorf("%s in %s: %w", said.Key, at, mlaas.ErrNotFound)
	case code == "NoSuchBucket":
		// Not ErrNotFound: that would say of every blob that it is gone.
		return fmt.Errorf("%s: %w", at, ErrNone)
	case code == "InvalidAccessKeyId" || code == "XAdminUserNotFound":
		return fmt.Errorf("%s does not know this access key: set AWS_ACCESS_KEY_ID, or the key before the @ of the address: %w", at, mlaas.ErrForbidden)
	case code == "SignatureDoesNotMatch":
		return fmt.Errorf("%s says that the secret is not that of the access key: set AWS_SECRET_ACCESS_KEY, or the secret before the @ of the address: %w", at, mlaas.ErrForbidden)
	case code == "ExpiredToken" || code == "InvalidToken" || code == "TokenRefreshRequired":
		return fmt.Errorf("%s says that the session is over: set AWS_SESSION_TOKEN anew: %w", at, mlaas.ErrForbidden)
	case code == "RequestTimeTooSkewed":
		return fmt.Errorf("%s has another time than this machine: set the clock: %w", at, mlaas.ErrUnavailable)
	case code == "AuthorizationHeaderMalformed" || code == "InvalidRegion" || code == "PermanentRedirect":
		return mlaas.Invalid("region", "the one where the bucket is: "+said.Error(), b.Region)
	case said.StatusCode == http.StatusInsufficientStorage || slices.Contains(noRoom, code) || strings.Contains(said.Message, "no space left on device"):
		return fmt.Errorf("%s has no room: %s: %w", at, said.Error(), mlaas.ErrDisk)
	case b.anonymous && (said.StatusCode == http.StatusForbidden || said.StatusCode == http.StatusUnauthorized || code == "AccessDenied"):
		return fmt.Errorf("%s does not let strangers in, and there are no keys: set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY: %w", at, mlaas.ErrForbidden)
	case said.StatusCode == http.StatusForbidden || said.StatusCode == http.StatusUnauthorized || code == "AccessDenied":
		return fmt.Errorf("%s refuses (%s): check AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY and what the policy of the bucket allows: %w", at, said.Error(), mlaas.ErrForbidden)
	}
	return fmt.Errorf("%s says: %s: %w", at, said.Error(), mlaas.ErrUnavailable)
}
