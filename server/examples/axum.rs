//! An axum application on this server's core: the same limits, deadlines, metrics and drain as the echo server.
//!
//! `cargo run -p echo-server --example axum`, then `curl -d hello http://127.0.0.1:3000/shout`, then Ctrl-C.

use std::io::Write as _;

use axum::{Router, routing::post};
use echo_server::Config;

#[tokio::main]
async fn main() -> std::io::Result<()> {
    let router = Router::new().route("/shout", post(|body: String| async move { body.to_uppercase() }));

    let listener = tokio::net::TcpListener::bind("127.0.0.1:3000").await?;
    let config = Config { body_max: 64 * 1024, lame_duck: std::time::Duration::ZERO, ..Config::default() };
    let ctrl_c = async { drop(tokio::signal::ctrl_c().await) };

    let report = echo_server::serve(listener, router, config, ctrl_c).await;
    writeln!(std::io::stdout(), "{report}")
}
