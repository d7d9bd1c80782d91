package observe

import (
	"context"
	"fmt"
	"time"

	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/codes"
	"go.opentelemetry.io/otel/exporters/otlp/otlptrace/otlptracehttp"
	"go.opentelemetry.io/otel/propagation"
	"go.opentelemetry.io/otel/sdk/resource"
	sdk "go.opentelemetry.io/otel/sdk/trace"
	otel "go.opentelemetry.io/otel/trace"

	"mlaas.dev/mlaas/internal/trace"
)

// NewTracer exports spans over OTLP/HTTP, where the environment names a place
// for them: OTEL_EXPORTER_OTLP_ENDPOINT, and the other variables that
// OpenTelemetry defines. Where it names none the tracer is nil. stop sends what
// is left, as far as ctx lets it.
func NewTracer(ctx context.Context, service, version string, env func(string) string) (t trace.Tracer, stop func(ctx context.Context) error, err error) {
	if env("OTEL_EXPORTER_OTLP_ENDPOINT") == "" && env("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT") == "" || env("OTEL_SDK_DISABLED") == "true" {
		return nil, func(context.Context) error { return nil }, nil
	}
	to, err := otlptracehttp.New(ctx) // it reads the rest of the environment
	if err != nil {
		return nil, nil, fmt.Errorf("export traces: %w", err)
	}
	about, err := resource.New(ctx, resource.WithHost(), resource.WithProcessPID(),
		resource.WithAttributes(attribute.String("service.name", service), attribute.String("service.version", version)),
		resource.WithFromEnv()) // last: what the operator says holds
	if err != nil {
		return nil, nil, fmt.Errorf("export traces: %w", err)
	}
	provider := sdk.NewTracerProvider(sdk.WithBatcher(to, sdk.WithBatchTimeout(time.Second)), sdk.WithResource(about))
	return &tracer{provider.Tracer("mlaas.dev/mlaas")}, provider.Shutdown, nil
}

type tracer struct{ otel otel.Tracer }

var traceparent propagation.TraceContext

// under is ctx with the span that a traceparent names as the parent of the
// next, unless ctx is part of one.
func under(ctx context.Context, from string) context.Context {
	if from == "" || otel.SpanContextFromContext(ctx).IsValid() {
		return ctx
	}
	return traceparent.Extract(ctx, propagation.MapCarrier{"traceparent": from})
}

func named(ctx context.Context) string {
	c := propagation.MapCarrier{}
	traceparent.Inject(ctx, c)
	return c["traceparent"]
}

// Start implements trace.Tracer.
func (t *tracer) Start(ctx context.Context, name, from, key, value string) (context.Context, func(error)) {
	ctx, span := t.otel.Start(under(ctx, from), name, otel.WithAttributes(attribute.String(key, value)))
	return trace.With(ctx, named(ctx)), func(err error) {
		if err != nil {
			span.SetStatus(codes.Error, err.Error())
		}
		span.End()
	}
}

// Past implements trace.Tracer.
func (t *tracer) Past(from, name string, began, ended time.Time, key, value string) {
	_, span := t.otel.Start(under(context.Background(), from), name, otel.WithTimestamp(began), otel.WithAttributes(attribute.String(key, value)))
	span.End(otel.WithTimestamp(ended))
}
