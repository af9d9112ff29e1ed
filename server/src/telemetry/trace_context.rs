//! W3C Trace Context: reads what a caller says of its trace, and knows which trace the current thread works for. Without
//! it a request has one trace at its caller, another here, and log lines belong to neither.

use std::{
    cell::Cell,
    fmt,
    marker::PhantomData,
    num::{NonZeroU64, NonZeroU128},
};

use http::{HeaderMap, HeaderName};

/// The header that carries a [`Parent`]. `tracestate` is for those who send requests on: we send none.
const TRACEPARENT: HeaderName = HeaderName::from_static("traceparent");

/// What a caller's `traceparent` says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Parent {
    pub(crate) context: TraceContext,
    /// Whether the caller records its part of the trace. Its decision is ours, too.
    pub(crate) is_sampled: bool,
}

impl Parent {
    /// The parent in `headers`; `None` where there is none, more than one, or one that is not valid.
    pub(crate) fn of(headers: &HeaderMap) -> Option<Self> {
        // One lookup where there is none, which is the usual case.
        let value = headers.get(TRACEPARENT)?;
        let is_only_one = headers.get_all(TRACEPARENT).iter().nth(1).is_none();
        if is_only_one { Self::parse(value.as_bytes()) } else { None }
    }

    /// `00-<32 hex>-<16 hex>-<2 hex>`, in lower case (W3C Trace Context, section 3.2). A higher version may have more
    /// behind another dash; version `ff` and ids of zeros are not valid.
    fn parse(text: &[u8]) -> Option<Self> {
        let (known, rest) = text.split_at_checked(55)?;
        let [version, trace_id, span_id, flags] =
            [0..2, 3..35, 36..52, 53..55].map(|place| hex(known.get(place)?));
        let has_dashes = [2, 35, 52].iter().all(|at| known.get(*at) == Some(&b'-'));
        let fits_version = match version? {
            0x00 => rest.is_empty(),
            0xff => false,
            _ => rest.is_empty() || rest.starts_with(b"-"),
        };
        if !has_dashes || !fits_version {
            return None;
        }
        let context = TraceContext {
            trace_id: NonZeroU128::new(trace_id?)?,
            span_id: NonZeroU64::new(u64::try_from(span_id?).ok()?)?,
        };
        Some(Self { context, is_sampled: flags? & 1 == 1 })
    }
}

fn hex(digits: &[u8]) -> Option<u128> {
    digits.iter().try_fold(0, |number, digit| {
        let value = match digit {
            b'0'..=b'9' => digit - b'0',
            b'a'..=b'f' => digit - b'a' + 10,
            _ => return None,
        };
        Some(number << 4 | u128::from(value))
    })
}

/// One span of one trace.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct TraceContext {
    pub(crate) trace_id: NonZeroU128,
    pub(crate) span_id: NonZeroU64,
}

impl TraceContext {
    /// A new span: of `parent`'s trace, or the first of a trace of its own.
    pub(crate) fn new_span(parent: Option<Parent>) -> Self {
        let trace_id = parent.map_or_else(
            || NonZeroU128::new(fastrand::u128(..)).unwrap_or(NonZeroU128::MIN),
            |parent| parent.context.trace_id,
        );
        Self { trace_id, span_id: NonZeroU64::new(fastrand::u64(..)).unwrap_or(NonZeroU64::MIN) }
    }

    /// What the current thread works for, if that is sampled.
    pub(crate) fn current() -> Option<Self> {
        CURRENT.get()
    }

    /// Makes this the current one until the guard is dropped.
    pub(crate) fn enter(self) -> Entered {
        Entered { before: CURRENT.replace(Some(self)), stays_on_its_thread: PhantomData }
    }
}

/// `<trace id>-<span id>` as other programs write them: in hexadecimal, with leading zeros.
impl fmt::Display for TraceContext {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:032x}-{:016x}", self.trace_id, self.span_id)
    }
}

thread_local!(static CURRENT: Cell<Option<TraceContext>> = const { Cell::new(None) });

/// See [`TraceContext::enter`].
#[derive(Debug)]
pub(crate) struct Entered {
    before: Option<TraceContext>,
    stays_on_its_thread: PhantomData<*const ()>,
}

impl Drop for Entered {
    fn drop(&mut self) {
        CURRENT.set(self.before);
    }
}

#[cfg(test)]
mod tests {
    use http::HeaderValue;
    use proptest::prelude::*;

    use super::*;

    const EXAMPLE: &str = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";

    #[test]
    fn the_example_of_the_standard_is_read() {
        let parent = Parent::parse(EXAMPLE.as_bytes()).unwrap();
        assert_eq!(parent.context.to_string(), "4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7");
        assert!(parent.is_sampled);
        let not_sampled = EXAMPLE.replace("-01", "-00");
        assert!(!Parent::parse(not_sampled.as_bytes()).unwrap().is_sampled);
        let other_flags = EXAMPLE.replace("-01", "-fe");
        assert!(!Parent::parse(other_flags.as_bytes()).unwrap().is_sampled, "only the last bit says so");
    }

    #[test]
    fn a_higher_version_is_read_by_its_known_beginning() {
        for (text, is_valid) in [
            (EXAMPLE.replacen("00", "01", 1), true),
            (EXAMPLE.replacen("00", "cc", 1) + "-what-comes-later", true),
            (EXAMPLE.replacen("00", "cc", 1) + ".what", false),
            (EXAMPLE.replacen("00", "ff", 1), false),
            (EXAMPLE.to_owned() + "-more", false),
        ] {
            assert_eq!(Parent::parse(text.as_bytes()).is_some(), is_valid, "{text}");
        }
    }

    #[test]
    fn what_is_not_valid_is_no_parent() {
        for text in [
            "",
            "00",
            "00-00000000000000000000000000000000-00f067aa0ba902b7-01",
            "00-4bf92f3577b34da6a3ce929d0e0e4736-0000000000000000-01",
            "00-4BF92F3577B34DA6A3CE929D0E0E4736-00f067aa0ba902b7-01",
            "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-0g",
            "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-1",
            "00_4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01",
            "+0-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01",
        ] {
            assert_eq!(Parent::parse(text.as_bytes()), None, "{text}");
        }
    }

    #[test]
    fn two_headers_are_no_parent() {
        let mut headers = HeaderMap::new();
        assert_eq!(Parent::of(&headers), None);
        headers.append(TRACEPARENT, HeaderValue::from_static(EXAMPLE));
        assert!(Parent::of(&headers).is_some());
        headers.append(TRACEPARENT, HeaderValue::from_static(EXAMPLE));
        assert_eq!(Parent::of(&headers), None);
    }

    #[test]
    fn the_current_context_ends_with_its_guard() {
        let (outer, inner) = (TraceContext::new_span(None), TraceContext::new_span(None));
        let entered = outer.enter();
        drop(inner.enter());
        assert_eq!(TraceContext::current(), Some(outer));
        drop(entered);
        assert_eq!(TraceContext::current(), None);
    }

    proptest! {
        #[test]
        fn what_is_written_is_read(trace_id in 1..=u128::MAX, span_id in 1..=u64::MAX, flags: u8) {
            let text = format!("00-{trace_id:032x}-{span_id:016x}-{flags:02x}");
            let parent = Parent::parse(text.as_bytes()).unwrap();
            prop_assert_eq!(parent.context.trace_id.get(), trace_id);
            prop_assert_eq!(parent.context.span_id.get(), span_id);
            prop_assert_eq!(parent.is_sampled, flags & 1 == 1);
        }

        #[test]
        fn any_bytes_are_read_or_refused_without_panic(text: Vec<u8>) {
            let _parent_or_none = Parent::parse(&text);
        }

        /// Whatever is taken is taken in the one form that there is.
        #[test]
        fn one_changed_byte_is_refused_or_read_as_written(at in 0..55_usize, byte: u8) {
            let mut text = EXAMPLE.as_bytes().to_vec();
            text[at] = byte;
            if let Some(parent) = Parent::parse(&text) {
                let text = String::from_utf8(text).unwrap();
                prop_assert_eq!(&text[3..52], parent.context.to_string());
            }
        }
    }
}
