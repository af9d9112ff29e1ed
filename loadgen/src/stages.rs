//! Without rates that change, a run says nothing about how a server takes a wave, a spike or a slow climb.
//!
//! A rate over time in pieces that are constant or linear. Request k is due when the area under the rate reaches k;
//! for a ramp that is the root of a quadratic, taken in integers and floored once. All areas are exact: they count in
//! halves of (one request per second for one nanosecond), because a ramp has the area `(from + to) * length / 2`.

use std::{fmt, str::FromStr, time::Duration};

use crate::{
    clock::{NANOS_PER_SECOND, nanos},
    units::{count, duration},
};

/// The area of one request.
const REQUEST: u128 = 2 * NANOS_PER_SECOND as u128;

/// A stretch of time with a rate that stays or changes evenly.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Stage {
    /// Its length.
    pub duration: Duration,
    /// Requests per second at its beginning.
    pub from: u64,
    /// Requests per second at its end.
    pub to: u64,
}

/// What `--stages` says: `10s@500,30s@500->5000`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Stages(pub Vec<Stage>);

impl FromStr for Stages {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        text.split(',').map(|stage| stage.trim().parse()).collect::<Result<_, _>>().map(Self)
    }
}

impl FromStr for Stage {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let error = |why: String| format!("'{text}': {why}; write a stage as 10s@500 or 30s@500->5000");
        let (length, rates) = text.split_once('@').ok_or_else(|| error("it has no @".to_owned()))?;
        let (from, to) = rates.split_once("->").unwrap_or((rates, rates));
        let rate =
            |text: &str| count(text.trim()).map_err(|why| error(format!("rate '{}': {why}", text.trim())));
        Ok(Self { duration: duration(length.trim()).map_err(error)?, from: rate(from)?, to: rate(to)? })
    }
}

impl fmt::Display for Stages {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (place, stage) in self.0.iter().enumerate() {
            let comma = if place > 0 { "," } else { "" };
            write!(f, "{comma}{stage}")?;
        }
        Ok(())
    }
}

impl fmt::Display for Stage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // The parts of a length have spaces between them (`1m 30s`), which a shell would take apart.
        let length = humantime::format_duration(self.duration).to_string().replace(' ', "");
        write!(f, "{length}@{}", self.from)?;
        if self.to == self.from { Ok(()) } else { write!(f, "->{}", self.to) }
    }
}

/// The rate of a whole run: a warm-up at the first rate, then the stages, once or for ever.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Curve {
    warmup: Piece,
    pieces: Vec<Piece>,
    /// Length and area of all pieces together.
    len_ns: u64,
    area: u128,
    repeat: bool,
}

/// One stage at its place in the curve. For all instants in it, peak rate x length stays below 2^64, as
/// [`Curve::piece_holds`] says, so that the discriminant of a ramp stays below 2^128.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Piece {
    begin_ns: u64,
    begin_area: u128,
    len_ns: u64,
    from: u64,
    to: u64,
}

impl Curve {
    /// The curve of `stages` after `warmup_ns` at their first rate; it begins again after its end if `repeat`.
    pub fn new(stages: &Stages, warmup_ns: u64, repeat: bool) -> Self {
        let first = stages.0.first().map_or(0, |stage| stage.from);
        let (mut len_ns, mut area) = (0, 0);
        let pieces = stages
            .0
            .iter()
            .map(|stage| {
                let Stage { from, to, .. } = *stage;
                let piece =
                    Piece { begin_ns: len_ns, begin_area: area, len_ns: nanos(stage.duration), from, to };
                len_ns += piece.len_ns;
                area += piece.area();
                piece
            })
            .collect();
        let warmup = Piece { begin_ns: 0, begin_area: 0, len_ns: warmup_ns, from: first, to: first };
        Self { warmup, pieces, len_ns, area, repeat }
    }

    /// Whether a stage is within what the arithmetic of a ramp can hold.
    pub fn piece_holds(stage: &Stage) -> bool {
        nanos(stage.duration).checked_mul(stage.from.max(stage.to)).is_some()
    }

    /// Number of requests, warm-up included; `u64::MAX` if it has no end.
    pub fn total(&self) -> u64 {
        if self.repeat && self.area > 0 {
            return u64::MAX;
        }
        requests(self.warmup.area() + self.area)
    }

    /// Offset in ns at which request `k` is due, floored; the end of the curve if there is no such request.
    pub fn intended_ns(&self, k: u64) -> u64 {
        let area = u128::from(k) * REQUEST;
        let Some(area) = area.checked_sub(self.warmup.area()) else { return self.warmup.reach(area) };
        let (round, area) =
            if self.repeat && self.area > 0 { (area / self.area, area % self.area) } else { (0, area) };
        let begin_ns = u128::from(self.warmup.len_ns) + round * u128::from(self.len_ns);
        let within_ns = if area < self.area {
            // Of the pieces that begin with this area the last one has requests; the others are pauses.
            self.pieces[..self.pieces.partition_point(|piece| piece.begin_area <= area)]
                .last()
                .map_or(0, |piece| piece.begin_ns + piece.reach(area - piece.begin_area))
        } else {
            self.len_ns
        };
        u64::try_from(begin_ns + u128::from(within_ns)).unwrap_or(u64::MAX)
    }

    /// How many requests have an [`Self::intended_ns`] below `at_ns`.
    pub fn due_before(&self, at_ns: u64) -> u64 {
        let Some(after_ns) = at_ns.checked_sub(self.warmup.len_ns) else {
            return requests(self.warmup.area_before(at_ns));
        };
        let (round, piece, within_ns) = self.piece_at(after_ns);
        let before = piece.map_or(0, |piece| piece.begin_area + piece.area_before(within_ns));
        requests(self.warmup.area() + u128::from(round) * self.area + before)
    }

    /// The stage at an offset, counted from 0, and the rate there; `None` after the end.
    pub fn at(&self, at_ns: u64) -> Option<(usize, f64)> {
        let Some(after_ns) = at_ns.checked_sub(self.warmup.len_ns) else {
            return Some((0, self.warmup.from as f64));
        };
        if !self.repeat && after_ns >= self.len_ns {
            return None;
        }
        let (_, piece, within_ns) = self.piece_at(after_ns);
        let place = self.pieces.iter().position(|each| Some(each) == piece)?;
        piece.map(|piece| (place, piece.rate(within_ns)))
    }

    /// Offset at which the last request has its full place: the end of the last stage that has requests.
    pub fn end_ns(&self) -> u64 {
        let last = self.pieces.iter().rfind(|piece| piece.area() > 0);
        self.warmup.len_ns + last.map_or(0, |piece| piece.begin_ns + piece.len_ns)
    }

    /// The round, the piece and the offset in it, `after_ns` after the warm-up.
    fn piece_at(&self, after_ns: u64) -> (u64, Option<&Piece>, u64) {
        let (round, offset_ns) = match after_ns.checked_div(self.len_ns) {
            Some(round) if self.repeat => (round, after_ns % self.len_ns),
            _ => (0, after_ns.min(self.len_ns)),
        };
        let piece = self.pieces[..self.pieces.partition_point(|piece| piece.begin_ns <= offset_ns)].last();
        (round, piece, offset_ns - piece.map_or(0, |piece| piece.begin_ns))
    }
}

impl Piece {
    fn area(&self) -> u128 {
        u128::from(self.from + self.to) * u128::from(self.len_ns)
    }

    /// The area of its first `at_ns`, rounded up: `2 * from * t + (to - from) * t^2 / length`.
    fn area_before(&self, at_ns: u64) -> u128 {
        let (at, len) = (u128::from(at_ns), u128::from(self.len_ns));
        let level = 2 * u128::from(self.from) * at;
        let bend = u128::from(self.from.abs_diff(self.to)) * at * at;
        if bend == 0 {
            level
        } else if self.to > self.from {
            level + bend.div_ceil(len)
        } else {
            level - bend / len
        }
    }

    /// The last offset at which at most `area`, which is less than its own, has been passed.
    ///
    /// With b = from * length and a = |to - from| that is the largest t with
    /// `a * t + b <= sqrt(b^2 + a * area * length)` for a rising ramp, and with
    /// `sqrt(b^2 - a * area * length) <= b - a * t` for a falling one: integers, so the root may be rounded first.
    fn reach(&self, area: u128) -> u64 {
        let level = u128::from(self.from) * u128::from(self.len_ns);
        let slope = u128::from(self.from.abs_diff(self.to));
        let bend = slope * area * u128::from(self.len_ns);
        let at = if slope == 0 {
            area.checked_div(2 * u128::from(self.from)).unwrap_or(0)
        } else if self.to > self.from {
            ((level * level + bend).isqrt() - level) / slope
        } else {
            (level - ceil_sqrt(level * level - bend)) / slope
        };
        u64::try_from(at).unwrap_or(u64::MAX)
    }

    fn rate(&self, at_ns: u64) -> f64 {
        let passed = at_ns as f64 / self.len_ns.max(1) as f64;
        self.from as f64 + (self.to as f64 - self.from as f64) * passed
    }
}

/// The requests that begin before `area` is full.
fn requests(area: u128) -> u64 {
    u64::try_from(area.div_ceil(REQUEST)).unwrap_or(u64::MAX)
}

fn ceil_sqrt(square: u128) -> u128 {
    let root = square.isqrt();
    root + u128::from(root * root < square)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const SECOND: u64 = NANOS_PER_SECOND;

    fn curve(text: &str, repeat: bool) -> Curve {
        Curve::new(&text.parse().unwrap(), 0, repeat)
    }

    #[test]
    fn the_grammar_is_read_and_written_the_same() {
        for text in ["10s@500", "10s@500,30s@500->5000,20s@5000->500", "1m30s@0->7,250ms@3"] {
            assert_eq!(text.parse::<Stages>().unwrap().to_string(), text);
        }
        assert_eq!(" 5 @ 2k -> 1m ".trim().parse::<Stages>().unwrap().to_string(), "5s@2000->1000000");
        for (text, why) in [
            ("", "no @"),
            ("10s@500,", "'': it has no @"),
            ("500", "'500': it has no @"),
            ("soon@500", "'soon@500'"),
            ("10s@fast", "rate 'fast'"),
            ("10s@5->", "rate ''"),
            ("10s@-5", "rate '-5'"),
        ] {
            let error = text.parse::<Stages>().unwrap_err();
            assert!(error.contains(why) && error.contains("write a stage as 10s@500"), "{text}: {error}");
        }
    }

    #[test]
    fn a_constant_stage_is_the_constant_schedule() {
        let curve = curve("10s@3", false);
        assert_eq!(curve.total(), 30);
        assert_eq!([1, 2, 3].map(|k| curve.intended_ns(k)), [333_333_333, 666_666_666, SECOND]);
    }

    #[test]
    fn a_ramp_is_its_integral() {
        // From 0 to 200 in 2 s: k requests in sqrt(k / 50) seconds.
        let up = curve("2s@0->200", false);
        assert_eq!(up.total(), 200);
        assert_eq!([0, 50, 199].map(|k| up.intended_ns(k)), [0, SECOND, 1_994_993_734]);
        // Down again is the mirror image: request k leaves as long before the end as request 200 - k after the begin.
        let down = curve("2s@200->0", false);
        assert_eq!(down.total(), 200);
        assert_eq!([0, 150, 1].map(|k| down.intended_ns(k)), [0, SECOND, 2 * SECOND - 1_994_993_735]);
    }

    #[test]
    fn stages_follow_each_other_without_a_gap_and_pauses_have_no_request() {
        let curve = curve("10s@500,30s@500->5000,20s@5000->500,5s@0,1s@7", false);
        assert_eq!(curve.total(), 5_000 + 82_500 + 55_000 + 7);
        assert_eq!(curve.intended_ns(5_000), 10 * SECOND);
        assert_eq!(curve.due_before(40 * SECOND), 87_500);
        // The last request before the pause leaves before it, the next one at its end.
        assert!(curve.intended_ns(142_499) < 60 * SECOND);
        assert_eq!(curve.intended_ns(142_500), 65 * SECOND);
        assert_eq!(curve.due_before(65 * SECOND), 142_500);
        assert_eq!(curve.due_before(u64::MAX), 142_507);
        assert_eq!(curve.end_ns(), 66 * SECOND);
        assert_eq!(curve.at(25 * SECOND), Some((1, 2_750.0)));
        assert_eq!((curve.at(62 * SECOND), curve.at(66 * SECOND)), (Some((3, 0.0)), None));
    }

    #[test]
    fn the_warmup_runs_at_the_first_rate_and_is_not_repeated() {
        let curve = Curve::new(&"1s@100->300".parse().unwrap(), 2 * SECOND, true);
        assert_eq!(curve.due_before(2 * SECOND), 200);
        assert_eq!(curve.intended_ns(200), 2 * SECOND);
        assert_eq!(curve.due_before(5 * SECOND), 200 + 3 * 200);
        assert_eq!(curve.at(SECOND), Some((0, 100.0)));
        assert_eq!(curve.at(4 * SECOND + SECOND / 2), Some((0, 200.0)));
        assert_eq!(curve.total(), u64::MAX);
    }

    #[test]
    fn a_round_that_holds_no_whole_number_of_requests_never_drifts() {
        // 2.5 requests a round, for a thousand years.
        let curve = curve("1s@1->4", true);
        assert_eq!(curve.due_before(2 * SECOND), 5);
        let rounds = 365 * 86_400 * 500;
        assert_eq!(curve.due_before(rounds * SECOND), rounds / 2 * 5);
        assert_eq!(curve.intended_ns(rounds / 2 * 5), rounds * SECOND);
    }

    fn any_stage() -> impl Strategy<Value = Stage> {
        (1..20_000_000_u64, 0..100_000_u64, 0..100_000_u64, any::<bool>()).prop_map(|(ns, from, to, ramp)| {
            Stage { duration: Duration::from_nanos(ns), from, to: if ramp { to } else { from } }
        })
    }

    fn any_curve() -> impl Strategy<Value = Curve> {
        (proptest::collection::vec(any_stage(), 1..6), 0..5_000_000_u64, any::<bool>())
            .prop_map(|(stages, warmup_ns, repeat)| Curve::new(&Stages(stages), warmup_ns, repeat))
    }

    proptest! {
        #[test]
        fn instants_are_monotone_and_agree_with_the_count(curve in any_curve(), at_ns in 0..120_000_000_u64) {
            let total = curve.total().min(20_000);
            let mut last_ns = 0;
            let mut counted = 0;
            for k in 0..total {
                let intended_ns = curve.intended_ns(k);
                prop_assert!(intended_ns >= last_ns, "request {k}");
                // Each request counts from the ns after its own on, and not before.
                prop_assert!(curve.due_before(intended_ns) <= k && curve.due_before(intended_ns + 1) > k, "request {k}");
                counted += u64::from(intended_ns < at_ns);
                last_ns = intended_ns;
            }
            if curve.total() <= total || last_ns >= at_ns {
                prop_assert_eq!(curve.due_before(at_ns), counted);
            }
        }

        #[test]
        fn the_number_of_requests_is_the_integral_rounded_up(curve in any_curve()) {
            let halves: u128 = curve
                .pieces
                .iter()
                .chain([&curve.warmup])
                .map(|piece| u128::from(piece.from + piece.to) * u128::from(piece.len_ns))
                .sum();
            let once = Curve { repeat: false, ..curve };
            prop_assert_eq!(u128::from(once.total()), halves.div_ceil(REQUEST));
            prop_assert_eq!(once.due_before(u64::MAX), once.total());
            prop_assert!(once.total() == 0 || once.intended_ns(once.total() - 1) < once.end_ns());
        }

        /// The floor is the floor of the real root: the area up to it is not yet more than k, one ns later it is.
        #[test]
        fn a_ramp_is_inverted_exactly(
            len_ns in 1..1_u64 << 40, from in 0..1_u64 << 24, to in 0..1_u64 << 24, part in 0..1_u64 << 30,
        ) {
            let piece = Piece { begin_ns: 0, begin_area: 0, len_ns, from, to };
            prop_assume!(piece.area() > 0);
            let area = (piece.area() - 1) / (1 << 30) * u128::from(part);
            let at_ns = piece.reach(area);
            // Times the length, so that nothing is rounded.
            let passed = |at: u64| {
                let (at, len) = (i128::from(at), i128::from(len_ns));
                at * (2 * i128::from(from) * len + (i128::from(to) - i128::from(from)) * at)
            };
            let whole = i128::try_from(area * u128::from(len_ns)).unwrap();
            prop_assert!(at_ns < len_ns);
            prop_assert!(passed(at_ns) <= whole && passed(at_ns + 1) > whole);
        }

        #[test]
        fn the_largest_ramp_that_is_let_pass_does_not_overflow(
            rate in 1..100_000_000_u64, down: bool, part in 0..1_000_u64,
        ) {
            let duration = Duration::from_nanos(u64::MAX / rate);
            let (from, to) = if down { (rate, 0) } else { (0, rate) };
            let stage = Stage { duration, from, to };
            prop_assert!(Curve::piece_holds(&stage));
            let curve = Curve::new(&Stages(vec![stage]), 0, false);
            let k = curve.total() / 1_000 * part;
            let intended_ns = curve.intended_ns(k);
            prop_assert!(curve.due_before(intended_ns) <= k && curve.due_before(intended_ns + 1) > k);
        }
    }
}
