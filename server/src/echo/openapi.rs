//! The description of the data listener for machines: a test holds it against the list of routes, so that neither has
//! what the other has not.

use http::{Request, Response, StatusCode};

use super::{
    answer::{self, Refusal},
    body::EchoBody,
    settings::Settings,
};
use crate::request::RequestBody;

/// OpenAPI 3.1.
const DOCUMENT: &str = include_str!("../../openapi.json");

/// `/openapi.json`
#[expect(clippy::unnecessary_wraps, reason = "the form of a handler")]
pub(super) fn document(
    _request: &Request<RequestBody>,
    _settings: &Settings,
) -> Result<Response<EchoBody>, Refusal> {
    Ok(answer::of_type(StatusCode::OK, "application/json", EchoBody::text(DOCUMENT)))
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use serde_json::Value;

    use super::*;
    use crate::{
        echo::routes::{Controls, Methods, ROUTES},
        telemetry::metrics::Shed,
    };

    /// Methods with paths, where `*` stands for a last parameter.
    fn documented(document: &Value) -> BTreeSet<(String, String)> {
        let methods = ["get", "put", "post", "delete", "options", "head", "patch", "trace"];
        let paths = document["paths"].as_object().unwrap();
        let operations = paths.iter().flat_map(|(path, item)| {
            let item = item.as_object().unwrap();
            item.keys()
                .filter(|key| methods.contains(&&***key))
                .map(|method| (path.clone(), method.to_uppercase()))
        });
        operations.collect()
    }

    fn path_of(pattern: &str) -> String {
        pattern.replace('*', "{path}")
    }

    fn routed() -> BTreeSet<(String, String)> {
        let operations = ROUTES.iter().flat_map(|route| {
            let methods = match route.methods {
                Methods::Any => vec!["GET", "POST", "PUT", "PATCH", "DELETE"],
                Methods::Only(methods) => methods.iter().map(http::Method::as_str).collect(),
            };
            methods.into_iter().map(|method| (path_of(route.pattern), method.to_owned()))
        });
        operations.collect()
    }

    #[test]
    fn the_document_has_every_route_and_no_other() {
        let document: Value = serde_json::from_str(DOCUMENT).unwrap();
        let (documented, routed) = (documented(&document), routed());
        let missing: Vec<_> = routed.difference(&documented).collect();
        let invented: Vec<_> = documented.difference(&routed).collect();
        assert!(missing.is_empty() && invented.is_empty(), "missing: {missing:?}; invented: {invented:?}");
    }

    #[test]
    fn the_document_lists_controls_where_there_are_some() {
        let document: Value = serde_json::from_str(DOCUMENT).unwrap();
        for route in ROUTES {
            let item = &document["paths"][path_of(route.pattern)];
            let shared = item["parameters"].as_array().map_or(&[][..], |parameters| parameters);
            let lists = |name: &str| {
                shared.iter().any(|one| one["$ref"] == format!("#/components/parameters/{name}"))
            };
            let expected = match route.controls {
                Controls::None => (false, false),
                Controls::Headers => (false, true),
                Controls::All => (true, true),
            };
            assert_eq!((lists("delay"), lists("delayHeader")), expected, "{}", route.pattern);
        }
    }

    #[test]
    fn every_reference_leads_somewhere_and_every_operation_has_a_name_of_its_own() {
        fn visit<'a>(value: &'a Value, found: &mut Vec<&'a str>) {
            match value {
                Value::Object(map) => {
                    found.extend(map.get("$ref").and_then(Value::as_str));
                    map.values().for_each(|value| visit(value, found));
                }
                Value::Array(list) => list.iter().for_each(|value| visit(value, found)),
                _ => {}
            }
        }
        let document: Value = serde_json::from_str(DOCUMENT).unwrap();
        assert_eq!(document["info"]["version"], env!("CARGO_PKG_VERSION"));
        let mut references = Vec::new();
        visit(&document, &mut references);
        for reference in references {
            assert!(document.pointer(&reference[1..]).is_some(), "{reference}");
        }
        let items = document["paths"].as_object().unwrap().values();
        let operations = items.flat_map(|item| item.as_object().unwrap().values());
        let names: Vec<_> = operations.filter_map(|operation| operation.get("operationId")).collect();
        let distinct: BTreeSet<_> = names.iter().map(ToString::to_string).collect();
        assert_eq!(names.len(), distinct.len());
    }

    #[test]
    fn every_tag_is_described() {
        let document: Value = serde_json::from_str(DOCUMENT).unwrap();
        let described: BTreeSet<_> = document["tags"]
            .as_array()
            .unwrap()
            .iter()
            .map(|tag| &tag["name"])
            .map(Value::to_string)
            .collect();
        let items = document["paths"].as_object().unwrap().values();
        let operations = items.flat_map(|item| item.as_object().unwrap().values());
        let tags = operations.filter_map(|operation| operation.get("tags")?.as_array()).flatten();
        let used: BTreeSet<_> = tags.map(Value::to_string).collect();
        assert_eq!(used, described);
    }

    #[test]
    fn the_document_knows_every_reason_for_a_refusal() {
        let document: Value = serde_json::from_str(DOCUMENT).unwrap();
        let listed = &document["components"]["headers"]["XEchoOverloaded"]["schema"]["enum"];
        assert_eq!(*listed, Value::from(Shed::ALL.map(Shed::name).to_vec()));
    }

    #[test]
    fn every_route_says_what_it_does() {
        assert!(ROUTES.iter().all(|route| !route.about.is_empty() && route.pattern.starts_with('/')));
    }
}
