//! What the server saw of a request, as JSON: whoever debugs a proxy, a gateway or a client has no other witness.
//!
//! A superset of what go-httpbin's `/anything` and the Gateway API's `echo-basic` answer, so that their clients can read
//! it. Header values that are not UTF-8 are shown as ISO-8859-1, byte by byte: nothing of them is lost.

mod form;
mod origin;

use std::{borrow::Cow, collections::BTreeMap, sync::Arc};

use base64::{Engine as _, engine::general_purpose::STANDARD};
use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Request, Response, StatusCode, Version, header, request::Parts};
use serde::Serialize;
use serde_json::json;

use self::form::Form;
pub(super) use self::origin::Origin;
use super::{
    answer::{self, Refusal},
    body::EchoBody,
    digest::Tally,
    query::Query,
    settings::Settings,
    stream::collect,
};
use crate::{
    activity::{Activity, TlsFacts},
    request::{
        BoxError, RequestBody,
        forwarded::{Origin as Client, client_of},
    },
};

/// Names with their values, in the order in which they came.
pub(super) type Lists = BTreeMap<String, Vec<String>>;

/// Everything about a request, and its body as data, form, files and JSON.
pub(super) async fn anything(
    request: Request<RequestBody>,
    settings: Arc<Settings>,
) -> Result<Response<EchoBody>, BoxError> {
    Ok(answer::json(StatusCode::OK, &look(request, &settings).await?))
}

/// The document that [`anything`] answers.
pub(super) async fn look(
    request: Request<RequestBody>,
    settings: &Settings,
) -> Result<serde_json::Value, BoxError> {
    let (head, mut body) = request.into_parts();
    let args = lists(Query::of(&head.uri)?.iter());
    let content = collect(&mut body, settings.config.buffer_max).await?;
    let form = Form::read(content_type(&head.headers), &content).await;
    Ok(seen(&head, &args, &content, &form, body.activity(), settings))
}

fn seen(
    head: &Parts,
    args: &Lists,
    content: &Bytes,
    form: &Form,
    activity: &Activity,
    settings: &Settings,
) -> serde_json::Value {
    let tls = activity.tls();
    let host = host(head);
    // As the client wrote it, where proxies that we trust stand between.
    let client = client_of(&head.headers, &activity.peer(), &settings.config.trusted_proxies);
    let scheme = client.scheme.unwrap_or(if tls.is_some() { "https" } else { "http" });
    let clients_host = client.host.as_ref().unwrap_or(&host);
    let target = head.uri.path_and_query().map_or("/", |target| target.as_str());
    let origin = &settings.origin;
    json!({
        "method": head.method.as_str(),
        "url": format!("{scheme}://{clients_host}{target}"),
        "args": args,
        "headers": header_lists(&head.headers),
        "origin": address(&client),
        "data": data(content, content_type(&head.headers)),
        "files": form.files,
        "form": form.fields,
        "json": form.json,
        "bodyError": form.error,
        "path": target,
        "host": host,
        "proto": protocol(head.version),
        "httpPort": origin.port(tls.is_some()),
        "namespace": origin.namespace,
        "pod": origin.pod,
        "service": origin.service,
        "ingress": origin.ingress,
        "tls": tls.map(Tls::of),
        "rawHeaders": raw_headers(&head.headers),
        "bodyBytes": content.len(),
        "bodySha256": Tally::of(content).hex(),
    })
}

/// `/headers`
#[expect(clippy::unnecessary_wraps, reason = "the form of a handler")]
pub(super) fn headers(
    request: &Request<RequestBody>,
    _settings: &Settings,
) -> Result<Response<EchoBody>, Refusal> {
    Ok(answer::json(StatusCode::OK, &json!({ "headers": header_lists(request.headers()) })))
}

/// `/ip`: the address that the client has for us, behind a trusted proxy for that.
pub(super) fn ip(request: &Request<RequestBody>, settings: &Settings) -> Result<Response<EchoBody>, Refusal> {
    let peer = request.body().activity().peer();
    let client = address(&client_of(request.headers(), &peer, &settings.config.trusted_proxies));
    Ok(if wants_text(request)? {
        answer::text(StatusCode::OK, format!("{client}\n"))
    } else {
        answer::json(StatusCode::OK, &json!({ "origin": client }))
    })
}

/// `/user-agent`
#[expect(clippy::unnecessary_wraps, reason = "the form of a handler")]
pub(super) fn user_agent(
    request: &Request<RequestBody>,
    _settings: &Settings,
) -> Result<Response<EchoBody>, Refusal> {
    let agent = request.headers().get(header::USER_AGENT).map(text);
    Ok(answer::json(StatusCode::OK, &json!({ "user-agent": agent })))
}

/// `/hostname`: which instance it is.
#[expect(clippy::unnecessary_wraps, reason = "the form of a handler")]
pub(super) fn hostname(
    _request: &Request<RequestBody>,
    _settings: &Settings,
) -> Result<Response<EchoBody>, Refusal> {
    Ok(answer::json(StatusCode::OK, &json!({ "hostname": crate::hostname::text() })))
}

/// `/version`
#[expect(clippy::unnecessary_wraps, reason = "the form of a handler")]
pub(super) fn version(
    _request: &Request<RequestBody>,
    _settings: &Settings,
) -> Result<Response<EchoBody>, Refusal> {
    let version = json!({ "name": env!("CARGO_PKG_NAME"), "version": env!("CARGO_PKG_VERSION") });
    Ok(answer::json(StatusCode::OK, &version))
}

/// Whether `?format=` asks for plain text.
pub(super) fn wants_text<B>(request: &Request<B>) -> Result<bool, Refusal> {
    match Query::of(request.uri())?.get("format") {
        None | Some("json") => Ok(false),
        Some("text") => Ok(true),
        Some(other) => Err(Refusal::bad_request(format!("format={other}: must be json or text"))),
    }
}

/// The client's address; empty where it has none (a Unix socket).
fn address(client: &Client<'_>) -> String {
    client.address.map_or_else(String::new, |ip| ip.to_string())
}

/// What the client calls us. HTTP/2 has it in the target.
fn host(head: &Parts) -> Cow<'_, str> {
    match (head.uri.authority(), head.headers.get(header::HOST)) {
        (Some(authority), _) => authority.as_str().into(),
        (None, Some(host)) => text(host),
        (None, None) => "".into(),
    }
}

fn protocol(version: Version) -> &'static str {
    match version {
        Version::HTTP_10 => "HTTP/1.0",
        Version::HTTP_2 => "HTTP/2.0",
        _ => "HTTP/1.1",
    }
}

fn content_type(headers: &HeaderMap) -> &str {
    headers.get(header::CONTENT_TYPE).and_then(|value| value.to_str().ok()).unwrap_or_default()
}

fn text(value: &HeaderValue) -> Cow<'_, str> {
    match std::str::from_utf8(value.as_bytes()) {
        Ok(text) => text.into(),
        Err(_not_utf8) => value.as_bytes().iter().map(|byte| char::from(*byte)).collect(),
    }
}

fn header_lists(headers: &HeaderMap) -> Lists {
    let mut lists = Lists::new();
    for (name, value) in headers {
        lists.entry(name.as_str().to_owned()).or_default().push(text(value).into_owned());
    }
    lists
}

/// In the order of arrival, as far as hyper keeps it: the values of one name stand together, and names are in lower case.
fn raw_headers(headers: &HeaderMap) -> Vec<[Cow<'_, str>; 2]> {
    headers.iter().map(|(name, value)| [name.as_str().into(), text(value)]).collect()
}

pub(super) fn lists<'a>(pairs: impl Iterator<Item = (&'a str, &'a str)>) -> Lists {
    let mut lists = Lists::new();
    for (name, value) in pairs {
        lists.entry(name.to_owned()).or_default().push(value.to_owned());
    }
    lists
}

/// Text as it is, anything else as a `data:` URL (RFC 2397).
fn data<'a>(content: &'a [u8], content_type: &str) -> Cow<'a, str> {
    match std::str::from_utf8(content) {
        Ok(text) => text.into(),
        Err(_not_utf8) => {
            let media_type = if content_type.is_empty() { "application/octet-stream" } else { content_type };
            format!("data:{media_type};base64,{}", STANDARD.encode(content)).into()
        }
    }
}

/// With the names that `echo-basic` has for them.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Tls<'a> {
    version: &'a str,
    server_name: Option<&'a str>,
    negotiated_protocol: Option<&'a str>,
    cipher_suite: &'a str,
    peer_certificates: Vec<String>,
}

impl<'a> Tls<'a> {
    fn of(facts: &'a TlsFacts) -> Self {
        Self {
            version: facts.version,
            server_name: facts.server_name.as_deref(),
            negotiated_protocol: facts.negotiated_protocol.as_deref(),
            cipher_suite: facts.cipher_suite,
            peer_certificates: facts.peer_certificates.iter().map(|der| pem(der)).collect(),
        }
    }
}

/// A certificate as text (RFC 7468).
fn pem(der: &[u8]) -> String {
    let mut pem = "-----BEGIN CERTIFICATE-----\n".to_owned();
    // 48 bytes are the 64 characters of a line.
    for line in der.chunks(48) {
        STANDARD.encode_string(line, &mut pem);
        pem.push('\n');
    }
    pem.push_str("-----END CERTIFICATE-----\n");
    pem
}
