//! A collector that counts spans and keeps none: what the export of spans costs the server, or whether it works at all,
//! is seen without a Jaeger.
//!
//! `cargo run -p echo-server --example otlp_sink 127.0.0.1:4317`, then the server with
//! `--otlp-endpoint http://127.0.0.1:4317 --trace-one-in 1`, some requests, and Ctrl-C: both print what they have seen.
//! Port 0, which is the default, lets the kernel choose.

use std::{
    error::Error,
    io::{self, Write as _},
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
};

use opentelemetry_proto::tonic::collector::trace::v1::{
    ExportTraceServiceRequest, ExportTraceServiceResponse,
    trace_service_server::{TraceService, TraceServiceServer},
};
use tokio::{
    net::TcpListener,
    signal::unix::{SignalKind, signal},
};
use tonic::{
    Request, Response, Status,
    transport::{Server, server::TcpIncoming},
};

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Box<dyn Error>> {
    let addr = std::env::args().nth(1).unwrap_or_else(|| "127.0.0.1:0".to_owned());
    let addr: SocketAddr = addr.parse().map_err(|error| format!("{addr}: {error}; wanted is IP:PORT"))?;
    let listener = TcpListener::bind(addr).await.map_err(|error| format!("{addr}: {error}"))?;
    let (mut terminate, mut interrupt) = (signal(SignalKind::terminate())?, signal(SignalKind::interrupt())?);
    // Whoever reads this may send spans, or a signal.
    writeln!(io::stdout(), "collecting on http://{}", listener.local_addr()?)?;

    let counts = Arc::<Counts>::default();
    let serve = Server::builder()
        .add_service(TraceServiceServer::from_arc(Arc::clone(&counts)))
        .serve_with_incoming(TcpIncoming::from(listener));
    // An exporter holds its connection open, so a graceful shutdown would wait for it.
    tokio::select! {
        ended = serve => ended?,
        _ = terminate.recv() => {}
        _ = interrupt.recv() => {}
    }
    writeln!(
        io::stdout(),
        "{} spans in {} messages",
        counts.spans.load(Relaxed),
        counts.messages.load(Relaxed)
    )?;
    Ok(())
}

#[derive(Default)]
struct Counts {
    messages: AtomicU64,
    spans: AtomicU64,
}

#[tonic::async_trait]
impl TraceService for Counts {
    async fn export(
        &self,
        request: Request<ExportTraceServiceRequest>,
    ) -> Result<Response<ExportTraceServiceResponse>, Status> {
        let resources = &request.get_ref().resource_spans;
        let spans: usize = resources.iter().flat_map(|of| &of.scope_spans).map(|of| of.spans.len()).sum();
        self.messages.fetch_add(1, Relaxed);
        self.spans.fetch_add(spans as u64, Relaxed);
        Ok(Response::new(ExportTraceServiceResponse::default()))
    }
}
