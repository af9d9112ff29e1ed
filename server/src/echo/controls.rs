//! What a client may ask of every endpoint: a delay, a status, a size, header fields, the end of the connection. Without
//! one grammar for all, whoever tests a gateway has to know which endpoint can do what (httpbin#229, open for ten years).
//!
//! | query | header | value |
//! |---|---|---|
//! | `delay` | `X-Echo-Delay` | `1.5` (seconds), `250ms` |
//! | `status` | `X-Echo-Status` | 200 to 599 |
//! | `size` | `X-Echo-Size` | bytes that replace the body |
//! | `close` | `X-Echo-Close` | `true`, `false`, or a percentage: HTTP/1 only |
//! | `header`, repeatable | `X-Echo-Set-Header` | `Name:value`; several with commas in the header |
//! | `seed` | `X-Echo-Seed` | repeats the choices of the others, and makes the bytes of `size` |
//!
//! All but the last two take a list `value:percent,...`; the requests that are left over get nothing. The header wins over
//! the query, and the query over `--default-params`.

use std::time::Duration;

use http::{HeaderMap, HeaderName, HeaderValue, Request, StatusCode};

use super::{
    answer::Refusal,
    chance::{Chances, Draws},
    duration, names, payload,
    query::Query,
    routes, status,
};
use crate::config::{Config, show_duration};

/// The largest that a client may ask for.
#[derive(Clone, Copy, Debug)]
pub(super) struct Caps {
    pub(super) delay_max: Duration,
    /// The flag that moves it.
    pub(super) delay_flag: &'static str,
    pub(super) size_max: u64,
}

impl Caps {
    pub(super) fn of(config: &Config) -> Self {
        // A longer delay would end as the 503 of a server that has failed.
        let (delay_max, delay_flag) = match config.request_timeout {
            timeout if timeout < config.delay_max => (timeout, "--request-timeout"),
            _ => (config.delay_max, "--delay-max"),
        };
        Self { delay_max, delay_flag, size_max: config.size_max }
    }

    /// The delay that a client asks for.
    ///
    /// # Errors
    /// What is wrong with it, for a person.
    pub(super) fn delay(self, text: &str) -> Result<Duration, String> {
        let (cap, flag) = (show_duration(self.delay_max), self.delay_flag);
        match duration::parse(text) {
            None => Err(format!("must be 0 to {cap} ({flag}), such as 1.5 (seconds) or 250ms")),
            Some(delay) if delay > self.delay_max => Err(format!("is above {cap} ({flag})")),
            Some(delay) => Ok(delay),
        }
    }
}

/// What is asked for, of which chance may choose.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct Controls {
    delay: Option<Chances<Duration>>,
    status: Option<Chances<StatusCode>>,
    size: Option<Chances<u64>>,
    close: Option<Chances<bool>>,
    headers: Option<Vec<(HeaderName, HeaderValue)>>,
    seed: Option<u64>,
}

/// What one request gets.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Effects {
    pub(super) delay: Option<Duration>,
    pub(super) status: Option<StatusCode>,
    pub(super) size: Option<u64>,
    pub(super) close: bool,
    pub(super) headers: Vec<(HeaderName, HeaderValue)>,
    /// Of the generated body.
    pub(super) seed: u64,
}

/// The controls by their names in a query, and the header of each.
const NAMES: [(&str, HeaderName); 6] = [
    ("delay", HeaderName::from_static("x-echo-delay")),
    ("status", HeaderName::from_static("x-echo-status")),
    ("size", HeaderName::from_static("x-echo-size")),
    ("close", HeaderName::from_static("x-echo-close")),
    ("header", HeaderName::from_static("x-echo-set-header")),
    ("seed", HeaderName::from_static("x-echo-seed")),
];

impl Controls {
    /// The effects that a request asks for, where its endpoint takes controls from `sources`.
    ///
    /// # Errors
    /// 400 for what cannot be had, with its name, its value, and what it may be.
    pub(super) fn effects<B>(
        request: &Request<B>,
        sources: routes::Controls,
        defaults: &Self,
        caps: Caps,
    ) -> Result<Effects, Refusal> {
        if sources == routes::Controls::None {
            return Ok(Effects::default());
        }
        let mut controls = Self::of_headers(request.headers(), caps).map_err(Refusal::bad_request)?;
        if let Some(text) = request.uri().query().filter(|_| sources == routes::Controls::All) {
            let of_query = Self::of_query(&Query::parse(text)?, caps).map_err(Refusal::bad_request)?;
            controls = controls.or(of_query);
        }
        let effects = controls.or(defaults.clone()).draw();
        names::check_number(effects.headers.len()).map_err(Refusal::bad_request)?;
        Ok(effects)
    }

    /// The controls of `--default-params`.
    ///
    /// # Errors
    /// What is wrong with them, for a person.
    pub(super) fn defaults(text: &str, caps: Caps) -> Result<Self, String> {
        let query = Query::parse(text).map_err(|bad| bad.to_string())?;
        match query.iter().find(|(name, _)| NAMES.iter().all(|(known, _)| known != name)) {
            Some((name, _)) => {
                Err(format!("{name:?} is no control: {}", NAMES.map(|(name, _)| name).join(", ")))
            }
            None => Self::of_query(&query, caps),
        }
    }

    fn of_query(query: &Query<'_>, caps: Caps) -> Result<Self, String> {
        let mut controls = Self::default();
        for (name, _) in NAMES {
            let mut values = query.all(name);
            if name == "header" {
                let fields: Vec<_> = values
                    .map(|value| field(value).map_err(|why| told(name, value, &why)))
                    .collect::<Result<_, _>>()?;
                controls.headers = Some(fields).filter(|fields| !fields.is_empty());
                continue;
            }
            let Some(value) = values.next() else { continue };
            if name == "seed" && controls == Self::default() {
                // Nobody needs it, and so it may be a parameter of something else.
                controls.seed = payload::parse_seed(value);
                continue;
            }
            controls.set(name, value, caps).map_err(|why| told(name, value, &why))?;
            if values.next().is_some() {
                return Err(told(name, value, "must not be there twice"));
            }
        }
        Ok(controls)
    }

    fn of_headers(fields: &HeaderMap, caps: Caps) -> Result<Self, String> {
        let mut controls = Self::default();
        for (name, header) in NAMES {
            let mut values = fields.get_all(&header).into_iter();
            let Some(first) = values.next() else { continue };
            let text = |value: &HeaderValue| String::from_utf8_lossy(value.as_bytes()).trim().to_owned();
            let first = text(first);
            if name == "header" {
                let lists = std::iter::once(first).chain(values.map(text));
                controls.headers =
                    Some(lists.map(|list| field_list(&list)).collect::<Result<Vec<_>, _>>()?.concat());
                continue;
            }
            let name_here = header.as_str();
            if values.next().is_some() {
                return Err(told(name_here, &first, "must not be there twice"));
            }
            controls.set(name, &first, caps).map_err(|why| told(name_here, &first, &why))?;
        }
        Ok(controls)
    }

    fn set(&mut self, name: &str, text: &str, caps: Caps) -> Result<(), String> {
        match name {
            "delay" => self.delay = Some(Chances::parse(text, |text| caps.delay(text))?),
            "status" => self.status = Some(Chances::parse(text, status::parse)?),
            "size" => self.size = Some(Chances::parse(text, |text| payload::size(text, caps.size_max))?),
            "close" => self.close = Some(close(text)?),
            _ => self.seed = Some(payload::parse_seed(text).ok_or("must be a number of 64 bits")?),
        }
        Ok(())
    }

    /// Each control from the first that has it.
    fn or(self, other: Self) -> Self {
        Self {
            delay: self.delay.or(other.delay),
            status: self.status.or(other.status),
            size: self.size.or(other.size),
            close: self.close.or(other.close),
            headers: self.headers.or(other.headers),
            seed: self.seed.or(other.seed),
        }
    }

    fn draw(self) -> Effects {
        let mut draws = Draws::new(self.seed);
        Effects {
            delay: self.delay.and_then(|chances| chances.draw(&mut draws)),
            status: self.status.and_then(|chances| chances.draw(&mut draws)),
            size: self.size.and_then(|chances| chances.draw(&mut draws)),
            close: self.close.and_then(|chances| chances.draw(&mut draws)).unwrap_or(false),
            headers: self.headers.unwrap_or_default(),
            seed: self.seed.unwrap_or(0),
        }
    }
}

/// `true`, `false`, a percentage as in Fortio, or a list.
fn close(text: &str) -> Result<Chances<bool>, String> {
    let text = if text.parse::<f64>().is_ok() { format!("true:{text}") } else { text.to_owned() };
    Chances::parse(&text, |text| {
        text.parse().map_err(|_no_bool| "must be true, false or a percentage".to_owned())
    })
}

/// Spaces around names and values mean nothing; a line end there would.
const OWS: [char; 2] = [' ', '\t'];

/// `Name:value`
fn field(text: &str) -> Result<(HeaderName, HeaderValue), String> {
    let (name, value) = text.split_once(':').ok_or("must be Name:value")?;
    let name = HeaderName::try_from(name.trim_matches(OWS))
        .map_err(|_invalid| "has a name that no header field can have")?;
    if names::is_framing(&name) {
        return Err(format!("names {name}, which the server alone sets"));
    }
    let value = HeaderValue::try_from(value.trim_matches(OWS))
        .map_err(|_invalid| "has a value that no header field can have")?;
    Ok((name, value))
}

/// `A:1,B:2`
fn field_list(text: &str) -> Result<Vec<(HeaderName, HeaderValue)>, String> {
    let entries = text.split(',').map(str::trim).filter(|entry| !entry.is_empty());
    entries.map(|entry| field(entry).map_err(|why| told("x-echo-set-header", entry, &why))).collect()
}

fn told(name: &str, value: &str, why: &str) -> String {
    format!("control {name}={value:?} {why}")
}

/// Whether a client asks for anything by header: what the most frequent requests pay for the others.
pub(super) fn is_control(name: &HeaderName) -> bool {
    name.as_str().starts_with("x-echo-")
}

/// For the fuzzer, through [`fuzzing`](crate::fuzzing).
pub(crate) fn fuzz(text: &str) {
    let caps = Caps { delay_max: Duration::from_secs(30), delay_flag: "--delay-max", size_max: 1 << 20 };
    if let Ok(controls) =
        Query::parse(text).map_err(drop).and_then(|query| Controls::of_query(&query, caps).map_err(drop))
    {
        let effects = controls.draw();
        assert!(effects.delay.is_none_or(|delay| delay <= caps.delay_max));
        assert!(effects.size.is_none_or(|size| size <= caps.size_max));
        assert!(effects.status.is_none_or(|status| (200..=599).contains(&status.as_u16())));
        assert!(effects.headers.iter().all(|(name, _)| !names::is_framing(name)));
    }
    let _parsed_or_refused = field_list(text).is_ok();
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use routes::Controls as Sources;

    const CAPS: Caps = Caps { delay_max: Duration::from_secs(30), delay_flag: "--delay-max", size_max: 1000 };

    fn effects(uri: &str, headers: &[(&str, &str)], defaults: &str) -> Result<Effects, String> {
        let mut request = Request::builder().uri(uri);
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        let defaults = Controls::defaults(defaults, CAPS)?;
        Controls::effects(&request.body(()).unwrap(), Sources::All, &defaults, CAPS)
            .map_err(|refusal| refusal.to_string())
    }

    #[test]
    fn header_wins_over_query_and_query_over_default() {
        let delay =
            |uri: &str, headers: &[(&str, &str)]| effects(uri, headers, "delay=3ms&status=500").unwrap();
        let asked = delay("/?delay=2ms", &[("x-echo-delay", "1ms")]);
        assert_eq!((asked.delay, asked.status.unwrap().as_u16()), (Some(Duration::from_millis(1)), 500));
        assert_eq!(delay("/?delay=2ms", &[]).delay, Some(Duration::from_millis(2)));
        assert_eq!(delay("/", &[]).delay, Some(Duration::from_millis(3)));
        assert_eq!(effects("/", &[], "").unwrap(), Effects::default());
    }

    #[test]
    fn every_control_is_read_from_either_place() {
        let by_query =
            effects("/?delay=0.5&status=418&size=7&close=true&header=A:1&header=B:x%2Cy&seed=9", &[], "")
                .unwrap();
        let by_header = effects(
            "/",
            &[
                ("x-echo-delay", "500ms"),
                ("x-echo-status", "418"),
                ("x-echo-size", "7"),
                ("x-echo-close", "100"),
                ("x-echo-set-header", "A:1"),
                ("x-echo-set-header", " B : x, "),
                ("x-echo-seed", "9"),
            ],
            "",
        )
        .unwrap();
        assert_eq!(
            (by_query.delay, by_query.size, by_query.close, by_query.seed),
            (Some(Duration::from_millis(500)), Some(7), true, 9)
        );
        assert_eq!(by_query.headers.last().unwrap().1, "x,y");
        assert_eq!(by_header.headers.last().unwrap().1, "x");
        assert_eq!(Effects { headers: vec![], ..by_query }, Effects { headers: vec![], ..by_header });
    }

    #[test]
    fn what_cannot_be_had_names_parameter_value_cap_and_flag() {
        for (query, parts) in [
            ("delay=31", ["delay=\"31\"", "30s", "--delay-max"]),
            ("delay=1ms:50,40s:50", ["\"40s\"", "30s", "--delay-max"]),
            ("delay=soon", ["delay=\"soon\"", "30s", "--delay-max"]),
            ("size=1001", ["size=\"1001\"", "above 1000", "--size-max"]),
            ("size=-1", ["size=\"-1\"", "1000", "--size-max"]),
            ("status=199", ["status=\"199\"", "200 to 599", ""]),
            ("status=200&status=201", ["status=\"200\"", "twice", ""]),
            ("close=maybe", ["close=\"maybe\"", "true, false", ""]),
            ("header=A", ["header=\"A\"", "Name:value", ""]),
            ("header=A%0d:1", ["header=", "name", ""]),
            ("header=A:1%0d%0aB:2", ["header=", "value", ""]),
            ("header=Content-Length:5", ["content-length", "server", ""]),
            ("header=Connection:close", ["connection", "server", ""]),
            ("status=200&seed=x", ["seed=\"x\"", "64 bits", ""]),
            ("delay=%zz", ["%zz", "hexadecimal", ""]),
        ] {
            let refused = effects(&format!("/?{query}"), &[], "").unwrap_err();
            assert!(
                refused.starts_with("400") && parts.iter().all(|part| refused.contains(part)),
                "{query}: {refused}"
            );
        }
        let refused = effects("/", &[("x-echo-delay", "1h")], "").unwrap_err();
        assert!(refused.contains("x-echo-delay=\"1h\"") && refused.contains("--delay-max"), "{refused}");
        let twice = effects("/", &[("x-echo-delay", "1"), ("x-echo-delay", "2")], "").unwrap_err();
        assert!(twice.contains("twice"), "{twice}");
        assert!(
            Controls::defaults("dely=1s", CAPS)
                .unwrap_err()
                .contains("\"dely\" is no control: delay, status")
        );
    }

    #[test]
    fn a_seed_that_nobody_needs_is_not_ours() {
        assert_eq!(effects("/?seed=abc&x=1", &[], "").unwrap(), Effects::default());
        let seeded = |uri: &str| effects(uri, &[], "").unwrap();
        let first = seeded("/?status=500:50&delay=1ms:50&seed=1");
        assert!((0..20).all(|_| seeded("/?status=500:50&delay=1ms:50&seed=1") == first));
        assert!((0..99).any(|seed| seeded(&format!("/?status=500:50&delay=1ms:50&seed={seed}")) != first));
    }

    proptest! {
        #[test]
        fn any_query_is_within_the_caps_or_refused(text in "(delay|status|size|close|header|seed|x)=[0-9a-z:,.%&=-]{0,20}(&(delay|status|size|close|header)=[0-9ms:,]{0,12}){0,3}") {
            fuzz(&text);
        }
    }
}
