//! Without TLS on real sockets, a run over https could skip checks that the same run over http makes.

mod support;

use std::path::Path;

use loadgen::{
    engine::tls::TlsOptions,
    failure::FailureClass,
    plan::{BodySource, PlanOptions},
    record::Record,
};
use support::{
    EchoServer, execute,
    gateway::{self, Behind, Identity},
    loadgen, text,
};

/// 400 requests with small and large bodies.
fn options(url: String) -> PlanOptions {
    PlanOptions {
        body: BodySource::Sizes(vec![64, 300_000]),
        connections: 4,
        requests: Some(400),
        ..PlanOptions::new(url)
    }
}

fn trusting(identity: &Identity) -> TlsOptions {
    TlsOptions { cacert: Some(Path::new(&identity.cert.0).into()), ..TlsOptions::default() }
}

fn assert_all_right(record: &Record) {
    assert!(record.measured.is_conserved(), "{:?}", record.measured);
    assert_eq!((record.measured.ok, record.measured.failed()), (400, 0), "{:?}", record.samples);
    assert_eq!(record.measured.body_bytes_sent, record.measured.body_bytes_received);
    assert!(record.latencies.identity_holds());
    assert_eq!(record.latencies.response.count(), 400);
}

#[test]
fn over_tls_every_byte_of_every_echo_is_checked_in_either_protocol() {
    let server = EchoServer::start();
    let identity = Identity::new("either");
    let addr = gateway::tls(&identity, &["h2", "http/1.1"], None, Behind::Server(server.addr));
    for http2 in [false, true] {
        let streams = http2.then_some(5);
        let tls = trusting(&identity);
        let options =
            PlanOptions { http2, streams, tls, ..options(format!("https://localhost:{}/echo", addr.port())) };
        assert_all_right(&execute(options.clone()).record);
        assert_all_right(&execute(PlanOptions { rate: Some(1_000), ..options }).record);
    }
}

#[test]
fn the_servers_own_tls_carries_the_same_run() {
    let flags = ["--listen-tls", "127.0.0.1:0", "--tls-dev-cert", "on"];
    let (_server, said) = EchoServer::start_with("127.0.0.1:0", &flags);
    let addr = said.iter().find_map(|line| line.strip_prefix("listening on https://")).unwrap();
    let tls = TlsOptions { insecure: true, ..TlsOptions::default() };
    for http2 in [false, true] {
        let (streams, tls) = (http2.then_some(5), tls.clone());
        let options = PlanOptions { http2, streams, tls, ..options(format!("https://{addr}/echo")) };
        assert_all_right(&execute(options).record);
    }
}

#[test]
fn a_certificate_that_nobody_vouches_for_is_named_with_the_way_out() {
    let server = EchoServer::start();
    let identity = Identity::new("unknown");
    let addr = gateway::tls(&identity, &["http/1.1"], None, Behind::Server(server.addr));
    let url = format!("https://{addr}/echo");
    let refused = loadgen(&["-n", "10", &url]);
    let stderr = text(&refused.stderr);
    assert_eq!(refused.status.code(), Some(1), "{stderr}");
    assert!(stderr.contains("tls: ") && stderr.contains("--insecure"), "{stderr}");
    let trusted = loadgen(&["-n", "2k", "--insecure", &url]);
    assert!(text(&trusted.stdout).contains("ok 2000 + errors 0"), "{}", text(&trusted.stdout));
}

#[test]
fn a_server_that_does_not_agree_to_http2_is_named() {
    let server = EchoServer::start();
    let identity = Identity::new("alpn");
    let addr = gateway::tls(&identity, &[], None, Behind::Server(server.addr));
    let refused = loadgen(&["-n", "10", "--insecure", "--http2", &format!("https://{addr}/")]);
    let stderr = text(&refused.stderr);
    assert_eq!(refused.status.code(), Some(1), "{stderr}");
    assert!(stderr.contains("tls: ") && stderr.contains("ALPN"), "{stderr}");
}

#[test]
fn a_client_certificate_opens_the_door_and_its_absence_is_a_failure_of_tls() {
    let server = EchoServer::start();
    let (identity, client) = (Identity::new("server"), Identity::new("client"));
    let alpn = ["h2", "http/1.1"];
    let addr = gateway::tls(&identity, &alpn, Some(&client), Behind::Server(server.addr));
    let url = format!("https://localhost:{}/echo", addr.port());
    let bare = PlanOptions { tls: trusting(&identity), ..options(url) };
    let mut shown = bare.clone();
    shown.tls.cert = Some(Path::new(&client.cert.0).into());
    shown.tls.key = Some(Path::new(&client.key.0).into());
    for http2 in [false, true] {
        assert_all_right(&execute(PlanOptions { http2, ..shown.clone() }).record);
    }
    // With TLS 1.3 the client learns of it only when it reads.
    let outcome = execute(PlanOptions { requests: Some(20), ..bare });
    let measured = &outcome.record.measured;
    assert!(measured.is_conserved(), "{measured:?}");
    assert_eq!((measured.ok, measured.failed()), (0, 20));
    assert!(measured.errors.contains_key(&FailureClass::Tls), "{:?}", outcome.record.samples);
}

#[test]
fn a_tls_stream_that_just_ends_is_no_end_of_a_body() {
    let identity = Identity::new("cut");
    let addr = gateway::tls(&identity, &[], None, Behind::Cut);
    let tls = trusting(&identity);
    let options = PlanOptions { requests: Some(12), tls, ..PlanOptions::new(format!("https://{addr}/")) };
    let outcome = execute(PlanOptions { connections: 2, ..options });
    let errors = &outcome.record.measured.errors;
    assert_eq!(errors.get(&FailureClass::Truncated), Some(&12), "{errors:?} {:?}", outcome.record.samples);
}

#[test]
fn a_unix_socket_carries_the_same_run() {
    let server = EchoServer::start();
    let path = gateway::unix("run", server.addr);
    for http2 in [false, true] {
        let unix = Some(path.clone());
        let options = PlanOptions { unix, http2, ..options("http://nobody.invalid/echo".to_owned()) };
        assert_all_right(&execute(options).record);
    }
    std::fs::remove_file(path).unwrap();
}
