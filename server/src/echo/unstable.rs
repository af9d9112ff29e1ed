//! An endpoint that fails now and then: retries and circuit breakers are tested against it, and with a seed a failing test
//! fails again.

use http::{Request, StatusCode};

use super::{answer::Refusal, ask::Ask, chance::Draws, payload};

/// `/unstable?failure_rate&seed`: 500 in `failure_rate` of all answers, else 200. The same seed gives the same answer.
pub(super) fn outcome<B>(request: &Request<B>) -> Result<StatusCode, Refusal> {
    let ask = Ask::of(request)?;
    let rate = ask.number("failure_rate", 0.5, 0.0..=1.0, None)?;
    let seed =
        match ask.get("seed") {
            None => None,
            Some(text) => Some(payload::parse_seed(text).ok_or_else(|| {
                Refusal::bad_request(format!("seed={text} is not a whole number of 64 bits"))
            })?),
        };
    let draw = Draws::new(seed).next();
    Ok(if draw < rate { StatusCode::INTERNAL_SERVER_ERROR } else { StatusCode::OK })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn status(query: &str) -> Result<u16, String> {
        let request = Request::builder().uri(format!("/unstable?{query}")).body(()).unwrap();
        outcome(&request).map(|status| status.as_u16()).map_err(|refusal| refusal.to_string())
    }

    #[test]
    fn a_seed_gives_the_same_answer_for_ever_and_seeds_differ() {
        let answers = (0..8).map(|seed| status(&format!("seed={seed}")).unwrap());
        assert_eq!(answers.collect::<Vec<_>>(), [200, 200, 200, 500, 500, 500, 200, 500]);
    }

    #[test]
    fn the_rate_is_kept_over_many_seeds() {
        let failures = (0..10_000).filter(|seed| status(&format!("failure_rate=0.2&seed={seed}")) == Ok(500));
        assert!((1900..2100).contains(&failures.count()));
        assert_eq!(status("failure_rate=1"), Ok(500));
        assert_eq!(status("failure_rate=0"), Ok(200));
        assert!(status("seed=-9223372036854775808").is_ok() && status("seed=18446744073709551615").is_ok());
    }

    #[test]
    fn what_is_no_rate_or_seed_is_refused() {
        for query in ["failure_rate=1.01", "failure_rate=-0.1", "failure_rate=NaN", "seed=x", "seed=1.5"] {
            assert!(status(query).unwrap_err().contains(query), "{query}");
        }
    }
}
