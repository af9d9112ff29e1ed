//! What a client asks of an endpoint by query: without one place for it, a value out of range is cut to size here, ignored
//! there, and a panic somewhere else. Here it is an answer that names the value, the limit, and the flag that moves it.

use std::{fmt::Display, ops::RangeInclusive, str::FromStr, time::Duration};

use http::{Request, StatusCode};

use super::{answer::Refusal, duration, query::Query};

/// The parameters of a request's query, as an endpoint wants them.
#[derive(Debug)]
pub(super) struct Ask<'a>(Query<'a>);

impl<'a> Ask<'a> {
    /// # Errors
    /// 400 where the query cannot be decoded.
    pub(super) fn of<B>(request: &'a Request<B>) -> Result<Self, Refusal> {
        Self::new(request.uri().query().unwrap_or_default())
    }

    fn new(query: &'a str) -> Result<Self, Refusal> {
        Ok(Self(Query::parse(query)?))
    }

    /// All parameters in their order.
    pub(super) fn iter(&self) -> impl Iterator<Item = (&str, &str)> {
        self.0.iter()
    }

    /// The first value of `name`; an empty one counts as none.
    pub(super) fn get(&self, name: &str) -> Option<&str> {
        self.0.get(name).filter(|value| !value.is_empty())
    }

    /// A number in `range`, whose upper end the flag moves.
    pub(super) fn number<T>(
        &self,
        name: &str,
        default: T,
        range: RangeInclusive<T>,
        flag: Option<&str>,
    ) -> Result<T, Refusal>
    where
        T: FromStr + PartialOrd + Display,
    {
        let Some(text) = self.get(name) else { return Ok(default) };
        let number = text.parse().ok().filter(|number| range.contains(number));
        number.ok_or_else(|| {
            let flag = flag.map(|flag| format!(" ({flag})")).unwrap_or_default();
            let (min, max) = range.into_inner();
            Refusal::bad_request(format!("{name}={text} is not a number from {min} to {max}{flag}"))
        })
    }

    /// A duration of at most `max`, which the flag moves.
    pub(super) fn duration(
        &self,
        name: &str,
        default: Duration,
        max: Duration,
        flag: &str,
    ) -> Result<Duration, Refusal> {
        let Some(text) = self.get(name) else { return Ok(default.min(max)) };
        match duration::parse(text) {
            Some(asked) if asked <= max => Ok(asked),
            Some(_) => Err(Refusal::bad_request(format!("{name}={text} is more than {max:?} ({flag})"))),
            None => Err(Refusal::bad_request(format!(
                "{name}={text} is not a duration: seconds as `1.5`, or with a unit as `250ms`, `1m30s`"
            ))),
        }
    }

    /// A number of bytes of at most `max`, which the flag moves.
    pub(super) fn bytes(&self, name: &str, default: u64, max: u64, flag: &str) -> Result<u64, Refusal> {
        let Some(text) = self.get(name) else { return Ok(default) };
        match crate::config::parse_bytes(text) {
            Some(asked) if asked <= max => Ok(asked),
            Some(_) => Err(Refusal::bad_request(format!("{name}={text} is more than {max} bytes ({flag})"))),
            None => {
                Err(Refusal::bad_request(format!("{name}={text} is not a number of bytes: `65536`, `64KiB`")))
            }
        }
    }

    /// A status that a response may have after its head is final.
    pub(super) fn status(&self, name: &str, default: StatusCode) -> Result<StatusCode, Refusal> {
        let code = self.number(name, default.as_u16(), 200..=599, None)?;
        Ok(StatusCode::from_u16(code).unwrap_or(default))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_out_of_range_is_refused_with_value_limit_and_flag() {
        let ask = Ask::new("a=5&b=2h&c=2MiB&d=x&e=&code=100").unwrap();
        assert_eq!(ask.number("a", 1, 0..=5, None).unwrap(), 5);
        assert_eq!(ask.number("nothing", 1, 0..=5, None).unwrap(), 1);
        assert_eq!(ask.number("e", 1, 0..=5, None).unwrap(), 1);
        let refusals = [
            ask.number("a", 1, 0..=4, Some("--size-max")).unwrap_err(),
            ask.duration("b", Duration::ZERO, Duration::from_secs(30), "--delay-max").unwrap_err(),
            ask.bytes("c", 0, 1 << 20, "--size-max").unwrap_err(),
        ];
        assert_eq!(
            refusals.map(|refusal| refusal.to_string()),
            [
                "400 Bad Request: a=5 is not a number from 0 to 4 (--size-max)",
                "400 Bad Request: b=2h is more than 30s (--delay-max)",
                "400 Bad Request: c=2MiB is more than 1048576 bytes (--size-max)",
            ]
        );
        assert!(ask.duration("d", Duration::ZERO, Duration::MAX, "").is_err());
        assert!(ask.bytes("d", 0, u64::MAX, "").is_err());
        assert!(ask.status("code", StatusCode::OK).is_err());
    }
}
