//! `/response-headers`: a response with the fields that the client names, to see what stands between us does with them.

use http::{HeaderName, HeaderValue, Request, Response, StatusCode};
use serde_json::json;

use super::{
    answer::{self, Refusal},
    body::EchoBody,
    inspect::lists,
    names,
    query::Query,
    settings::Settings,
};
use crate::request::RequestBody;

/// Each parameter of the query is a field. The first of a name replaces ours, the others are added.
pub(super) fn response_headers(
    request: &Request<RequestBody>,
    _settings: &Settings,
) -> Result<Response<EchoBody>, Refusal> {
    let query = Query::of(request.uri())?;
    names::check_number(query.iter().count()).map_err(Refusal::bad_request)?;
    let mut response = answer::json(StatusCode::OK, &json!(lists(query.iter())));
    let fields: Vec<_> = query.iter().map(|(name, value)| field(name, value)).collect::<Result<_, _>>()?;
    names::set_fields(response.headers_mut(), fields);
    Ok(response)
}

fn field(name: &str, value: &str) -> Result<(HeaderName, HeaderValue), Refusal> {
    let refused = |why| Refusal::bad_request(format!("header {name:?} with value {value:?} {why}"));
    let name =
        HeaderName::try_from(name).map_err(|_invalid| refused("has a name that no header field can have"))?;
    if names::is_framing(&name) {
        return Err(refused("is one that the server alone sets"));
    }
    let value = HeaderValue::try_from(value)
        .map_err(|_invalid| refused("has a value that no header field can have"))?;
    Ok((name, value))
}
