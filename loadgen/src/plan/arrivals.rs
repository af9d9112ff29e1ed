//! Without one place for what says how fast and how long, two flags could say different things about it.

use std::{num::NonZeroU64, time::Duration};

use super::{
    PlanError, PlanOptions,
    limits::{DURATION_MAX, RATE_MAX, REQUESTS_MAX, STAGES_MAX, within, within_time},
};
use crate::{
    clock::NANOS_PER_SECOND,
    schedule::Arrivals,
    stages::{Curve, Stages},
};

/// What ends a run must not be said twice.
pub(super) fn one_end(options: &PlanOptions) -> Result<(), PlanError> {
    let requests = options.requests.map(|requests| (requests.to_string(), "-n/--requests or --repeat"));
    let duration = options.duration.map(humantime::format_duration);
    let duration = duration.map(|duration| (duration.to_string(), "-z/--duration or --repeat"));
    if let (true, Some((value, flag))) = (options.repeat, requests.or(duration)) {
        return Err(PlanError::new(value, "a run that repeats has no end but a signal", flag));
    }
    let Some(stages) = &options.stages else { return Ok(()) };
    let flag = match (options.rate, options.requests, options.duration) {
        (Some(_), ..) => "-q/--rate or --stages",
        (_, Some(_), _) => "-n/--requests or --stages",
        (.., Some(_)) => "-z/--duration or --stages",
        _ => return Ok(()),
    };
    Err(PlanError::new(
        stages.to_string(),
        "the stages alone say how fast and how long requests are sent",
        flag,
    ))
}

/// When requests are due.
pub(super) fn arrivals(
    rate: Option<u64>,
    stages: Option<Stages>,
    warmup: Duration,
    repeat: bool,
) -> Result<Arrivals, PlanError> {
    if let Some(stages) = stages {
        let stages = valid_stages(stages, warmup)?;
        return Ok(Arrivals::Staged { stages, repeat });
    }
    let Some(rate) = rate else { return Ok(Arrivals::Closed) };
    let rate = within(rate, 1, RATE_MAX, "-q/--rate")?;
    let per_second = NonZeroU64::new(rate).unwrap_or(NonZeroU64::MIN);
    Ok(Arrivals::Constant { per_second })
}

fn valid_stages(stages: Stages, warmup: Duration) -> Result<Stages, PlanError> {
    const FLAG: &str = "--stages";
    within(stages.0.len(), 1, STAGES_MAX, "the number of --stages")?;
    for stage in &stages.0 {
        within_time(stage.duration, Duration::from_millis(1), DURATION_MAX, FLAG)?;
        within(stage.from.max(stage.to), 0, RATE_MAX, FLAG)?;
        if !Curve::piece_holds(stage) {
            let most = u64::MAX / NANOS_PER_SECOND;
            let problem = format!("its higher rate times its length is more than {most} requests");
            return Err(PlanError::new(stage.to_string(), problem, FLAG));
        }
    }
    let total: Duration = stages.0.iter().map(|stage| stage.duration).sum();
    within_time(total, Duration::from_millis(1), DURATION_MAX, "the sum of --stages")?;
    let requests = Curve::new(&stages, 0, false).total();
    if requests == 0 {
        return Err(PlanError::new(stages.to_string(), "there is no request in them", FLAG));
    }
    within(requests, 1, REQUESTS_MAX, "the requests in --stages")?;
    if warmup > Duration::ZERO && stages.0.first().is_some_and(|first| first.from == 0) {
        let problem = "it runs at the rate that the stages begin with, and that is 0";
        let warmup = humantime::format_duration(warmup).to_string();
        return Err(PlanError::new(warmup, problem, "--warmup or --stages"));
    }
    Ok(stages)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::plan::tests::error;

    #[test]
    fn stages_that_cannot_be_are_named_with_their_limit_and_flag() {
        let stages = |text: &str, change: fn(&mut PlanOptions)| {
            error(|options| {
                options.stages = Some(text.parse().unwrap());
                change(options);
            })
        };
        for (text, expected) in [
            ("0s@5", "0s: it must be from 1ms to 1year; change --stages"),
            ("1s@200m", "200000000: it must be from 0 to 100000000; change --stages"),
            (
                "1h@0->100m",
                "1h@0->100000000: its higher rate times its length is more than 18446744073 requests",
            ),
            ("10s@0,1m@0", "10s@0,1m@0: there is no request in them; change --stages"),
        ] {
            let error = stages(text, |_| ());
            assert!(error.contains(expected), "{error}");
        }
        let warm = stages("1s@0->5", |options| options.warmup = Duration::from_secs(5));
        assert!(warm.starts_with("5s: ") && warm.contains("--warmup"), "{warm}");
        let rated = stages("1s@5", |options| options.rate = Some(7));
        assert!(rated.starts_with("1s@5: ") && rated.contains("-q/--rate or --stages"), "{rated}");
        assert!(stages("1s@5", |options| options.requests = Some(7)).contains("-n/--requests or --stages"));
        let timed = stages("1s@5", |options| options.duration = Some(Duration::from_secs(1)));
        assert!(timed.contains("-z/--duration or --stages"), "{timed}");
        let repeated = error(|options| (options.repeat, options.requests) = (true, Some(7)));
        assert!(repeated.starts_with("7: ") && repeated.contains("-n/--requests or --repeat"), "{repeated}");
        let timed =
            error(|options| (options.repeat, options.duration) = (true, Some(Duration::from_secs(7))));
        assert!(timed.starts_with("7s: ") && timed.contains("-z/--duration or --repeat"), "{timed}");
    }
}
