//! Spans of requests, sent to a collector in the background.
//!
//! A span is made when its request has ended: until then there is nothing to keep. What cannot be sent in time is
//! dropped, never waited for: traces explain requests, they must not slow them down.

use std::time::{Duration, SystemTime};

use opentelemetry::trace::{
    Link, Span, SpanBuilder, SpanContext, SpanId, SpanKind, Status, TraceContextExt, TraceFlags, TraceId, TraceState,
    Tracer, TracerProvider,
};
use opentelemetry::{Context, KeyValue};
use opentelemetry_otlp::{ExporterBuildError, SpanExporter, WithExportConfig, WithHttpConfig};
use opentelemetry_sdk::Resource;
use opentelemetry_sdk::trace::{BatchConfigBuilder, BatchSpanProcessor, Sampler, SdkTracer, SdkTracerProvider};

use super::OtlpSettings;
use super::followed::Followed;
use super::otlp::Client;
use super::trace_context::TraceContext;
use crate::metrics::requests::{Ended, Outcome};

/// Spans that wait to be sent; more are dropped. About 2 MB.
const QUEUE: usize = 4096;
/// Spans in one message to the collector.
const BATCH: usize = 512;
/// Longest time a span waits to be sent.
const DELAY: Duration = Duration::from_secs(1);
/// Longest time to send what is left when the server ends.
const FLUSH: Duration = Duration::from_secs(2);
/// A wait for a slot from here on is a span of its own.
const QUEUED: Duration = Duration::from_millis(1);

/// Sends spans to a collector.
#[derive(Debug, Clone)]
pub struct Traces {
    tracer: SdkTracer,
    provider: SdkTracerProvider,
}

/// Traces that cannot be sent as asked.
#[derive(Debug, thiserror::Error)]
pub enum InvalidTraces {
    /// The HTTP client cannot be made.
    #[error("--otlp-endpoint: cannot set up an HTTP client: {0}")]
    Client(#[from] reqwest::Error),
    /// The exporter cannot be made.
    #[error("--otlp-endpoint: {0}")]
    Exporter(#[from] ExporterBuildError),
}

impl Traces {
    /// Starts the background sender. Needs a running runtime; the collector need not answer yet.
    ///
    /// # Errors
    /// [`InvalidTraces`] when the settings cannot work.
    pub fn start(settings: &OtlpSettings) -> Result<Self, InvalidTraces> {
        let exporter = SpanExporter::builder()
            .with_http()
            .with_http_client(Client::new(settings.endpoint.clone())?)
            .with_endpoint(settings.endpoint.to_string())
            .build()?;
        let batches = BatchConfigBuilder::default()
            .with_max_queue_size(QUEUE)
            .with_max_export_batch_size(BATCH)
            .with_scheduled_delay(DELAY)
            .build();
        let processor = BatchSpanProcessor::builder(exporter).with_batch_config(batches).build();
        let provider = SdkTracerProvider::builder()
            .with_span_processor(processor)
            .with_sampler(Sampler::ParentBased(Box::new(Sampler::TraceIdRatioBased(
                settings.sampled,
            ))))
            .with_resource(resource())
            .build();
        Ok(Self {
            tracer: provider.tracer("mcp-server"),
            provider,
        })
    }

    /// Records a request that has just ended; its trace, if it is recorded. The caller's place in a trace is taken from
    /// the message, `carried`, before the HTTP header, which may be a proxy's.
    pub(super) fn record(&self, ended: &Ended, followed: &Followed, carried: Option<TraceContext>) -> Option<u128> {
        let now = SystemTime::now();
        let arrived = now.checked_sub(ended.elapsed).unwrap_or(now);
        let header = followed.context();
        let parent = carried.or(header).map_or_else(Context::new, |context| {
            Context::new().with_remote_span_context(span_context(context))
        });
        let other = header.filter(|header| carried.is_some_and(|carried| carried != *header));
        let builder = SpanBuilder::from_name(name(ended))
            .with_kind(SpanKind::Server)
            .with_start_time(arrived)
            .with_attributes(attributes(ended, followed))
            .with_links(
                other
                    .map(|context| Link::with_context(span_context(context)))
                    .into_iter()
                    .collect(),
            );
        let mut span = self.tracer.build_with_context(builder, &parent);
        let context = span.span_context().clone();
        if !context.is_sampled() {
            return None;
        }
        if ended.queued >= QUEUED {
            self.record_queue(ended, now, &context);
        }
        if ended.outcome.status() != "ok" {
            span.set_status(Status::error(ended.outcome.error_type()));
        }
        span.end_with_timestamp(now);
        Some(u128::from_be_bytes(context.trace_id().to_bytes()))
    }

    fn record_queue(&self, ended: &Ended, now: SystemTime, parent: &SpanContext) {
        let until = now.checked_sub(ended.service.unwrap_or_default()).unwrap_or(now);
        let builder = SpanBuilder::from_name("wait for a slot")
            .with_kind(SpanKind::Internal)
            .with_start_time(until.checked_sub(ended.queued).unwrap_or(until));
        let parent = Context::new().with_remote_span_context(parent.clone());
        self.tracer
            .build_with_context(builder, &parent)
            .end_with_timestamp(until);
    }

    /// Sends what is left, for at most two seconds. Blocks the thread.
    pub fn finish(&self) {
        if let Err(error) = self.provider.shutdown_with_timeout(FLUSH) {
            tracing::debug!(%error, "the last traces are lost");
        }
    }
}

fn resource() -> Resource {
    let mut attributes = vec![KeyValue::new("service.version", env!("CARGO_PKG_VERSION"))];
    // The environment of the standard wins; it is read by the builder.
    if std::env::var_os("OTEL_SERVICE_NAME").is_none() {
        attributes.push(KeyValue::new("service.name", "mcp-server"));
    }
    if let Ok(host) = std::env::var("HOSTNAME") {
        attributes.push(KeyValue::new("service.instance.id", host));
    }
    Resource::builder().with_attributes(attributes).build()
}

/// `{method} {tool}`, as the semantic conventions for MCP have it.
fn name(ended: &Ended) -> String {
    let operation = ended.operation;
    if operation.tool.is_empty() {
        operation.method.to_owned()
    } else {
        format!("{} {}", operation.method, operation.tool)
    }
}

fn attributes(ended: &Ended, followed: &Followed) -> Vec<KeyValue> {
    let operation = ended.operation;
    let mut attributes = vec![
        KeyValue::new("mcp.method.name", operation.method),
        KeyValue::new("mcp.protocol.version", operation.protocol_version),
        KeyValue::new("network.transport", "tcp"),
        KeyValue::new("network.protocol.name", "http"),
        KeyValue::new("http.request.header.x-request-id", followed.id().to_owned()),
    ];
    if !operation.tool.is_empty() {
        attributes.push(KeyValue::new("gen_ai.operation.name", "execute_tool"));
        attributes.push(KeyValue::new("gen_ai.tool.name", operation.tool));
    }
    if let Outcome::RpcError(code) = ended.outcome {
        attributes.push(KeyValue::new("rpc.response.status_code", code.to_string()));
    }
    if ended.outcome != Outcome::Ok {
        attributes.push(KeyValue::new("error.type", ended.outcome.error_type()));
    }
    attributes
}

fn span_context(context: TraceContext) -> SpanContext {
    SpanContext::new(
        TraceId::from_bytes(context.trace_id.to_be_bytes()),
        SpanId::from_bytes(context.span_id.to_be_bytes()),
        if context.sampled {
            TraceFlags::SAMPLED
        } else {
            TraceFlags::default()
        },
        true,
        TraceState::default(),
    )
}
