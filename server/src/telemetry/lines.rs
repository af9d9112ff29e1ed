//! What a log line looks like, for people and for collectors, with the trace that it belongs to: without that, a line and
//! the trace of the request that wrote it never meet.

use std::{
    fmt::{self, Write as _},
    io::Write as _,
    time::SystemTime,
};

use tracing::{Event, Level, Subscriber, field::Field};
use tracing_subscriber::{
    field::Visit,
    fmt::{FmtContext, FormatEvent, FormatFields, format::Writer},
    registry::LookupSpan,
};

use super::{clock, json, trace_context::TraceContext};
use crate::config::LogFormat;

/// Writes events as lines, in one of two forms. Neither lets a value end its line or reach a terminal's control codes.
#[derive(Debug)]
pub(super) struct Lines {
    pub(super) format: LogFormat,
    /// Colours the level, for people at a terminal.
    pub(super) is_terminal: bool,
    pub(super) service_name: String,
}

impl<S, F> FormatEvent<S, F> for Lines
where
    S: Subscriber + for<'a> LookupSpan<'a>,
    F: for<'a> FormatFields<'a> + 'static,
{
    fn format_event(&self, _: &FmtContext<'_, S, F>, mut out: Writer<'_>, event: &Event<'_>) -> fmt::Result {
        let mut line = Vec::with_capacity(256);
        match self.format {
            LogFormat::Pretty => self.pretty(&mut line, event),
            LogFormat::Json => self.json(&mut line, event),
        }
        line.push(b'\n');
        out.write_str(&String::from_utf8_lossy(&line))
    }
}

impl Lines {
    /// `2026-11-22T10:15:30.123Z  INFO echo_server::drain: draining connections=3`
    fn pretty(&self, line: &mut Vec<u8>, event: &Event<'_>) {
        let level = *event.metadata().level();
        clock::append(line, SystemTime::now());
        let (colour, plain) = if self.is_terminal { (colour(level), "\x1b[0m") } else { ("", "") };
        append(line, format_args!(" {colour}{level:>5}{plain} {}:", event.metadata().target()));
        event.record(&mut PrettyFields(line));
        if let Some(TraceContext { trace_id, span_id }) = TraceContext::current() {
            append(line, format_args!(" trace_id={trace_id:032x} span_id={span_id:016x}"));
        }
    }

    fn json(&self, line: &mut Vec<u8>, event: &Event<'_>) {
        line.extend_from_slice(b"{\"timestamp\":\"");
        clock::append(line, SystemTime::now());
        let metadata = event.metadata();
        append(
            line,
            format_args!("\",\"level\":\"{}\",\"target\":\"{}\"", metadata.level(), metadata.target()),
        );
        event.record(&mut JsonFields(line));
        if let Some(TraceContext { trace_id, span_id }) = TraceContext::current() {
            append(line, format_args!(",\"trace_id\":\"{trace_id:032x}\",\"span_id\":\"{span_id:016x}\""));
        }
        line.extend_from_slice(b",\"service.name\":\"");
        json::escape(line, &self.service_name);
        line.extend_from_slice(b"\"}");
    }
}

/// Names that are ours: an event's own field of such a name is told apart, for a key may come only once.
const RESERVED: [&str; 6] = ["timestamp", "level", "target", "trace_id", "span_id", "service.name"];

struct JsonFields<'a>(&'a mut Vec<u8>);

impl JsonFields<'_> {
    fn key(&mut self, field: &Field) {
        let prefix = if RESERVED.contains(&field.name()) { "field." } else { "" };
        self.0.extend_from_slice(b",\"");
        self.0.extend_from_slice(prefix.as_bytes());
        json::escape(self.0, field.name());
        self.0.extend_from_slice(b"\":");
    }

    fn string(&mut self, field: &Field, value: fmt::Arguments<'_>) {
        self.key(field);
        self.0.push(b'"');
        let printed = json::Escaped(self.0).write_fmt(value);
        debug_assert!(printed.is_ok(), "a Vec takes all");
        self.0.push(b'"');
    }
}

impl Visit for JsonFields<'_> {
    fn record_f64(&mut self, field: &Field, value: f64) {
        // JSON knows neither infinity nor "not a number".
        if value.is_finite() {
            self.key(field);
            append(self.0, format_args!("{value}"));
        } else {
            self.string(field, format_args!("{value}"));
        }
    }

    fn record_i64(&mut self, field: &Field, value: i64) {
        self.key(field);
        append(self.0, format_args!("{value}"));
    }

    fn record_u64(&mut self, field: &Field, value: u64) {
        self.key(field);
        append(self.0, format_args!("{value}"));
    }

    fn record_bool(&mut self, field: &Field, value: bool) {
        self.key(field);
        append(self.0, format_args!("{value}"));
    }

    fn record_str(&mut self, field: &Field, value: &str) {
        self.string(field, format_args!("{value}"));
    }

    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        self.string(field, format_args!("{value:?}"));
    }
}

struct PrettyFields<'a>(&'a mut Vec<u8>);

impl Visit for PrettyFields<'_> {
    fn record_str(&mut self, field: &Field, value: &str) {
        if field.name() == "message" {
            self.record_debug(field, &format_args!("{value}"));
        } else {
            self.record_debug(field, &value);
        }
    }

    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        let printed = match field.name() {
            "message" => write!(Printable(self.0), " {value:?}"),
            name => write!(Printable(self.0), " {name}={value:?}"),
        };
        debug_assert!(printed.is_ok(), "a Vec takes all");
    }
}

/// Lets no control character through: a line feed would begin a line that nobody wrote, an escape paints the terminal.
struct Printable<'a>(&'a mut Vec<u8>);

impl fmt::Write for Printable<'_> {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        for character in text.chars() {
            if character.is_control() {
                append(self.0, format_args!("{}", character.escape_default()));
            } else {
                self.0.extend_from_slice(character.encode_utf8(&mut [0; 4]).as_bytes());
            }
        }
        Ok(())
    }
}

/// Appends what no client has a part in.
fn append(line: &mut Vec<u8>, value: fmt::Arguments<'_>) {
    let printed = line.write_fmt(value);
    debug_assert!(printed.is_ok(), "a Vec takes all");
}

fn colour(level: Level) -> &'static str {
    match level {
        Level::ERROR => "\x1b[31m",
        Level::WARN => "\x1b[33m",
        Level::INFO => "\x1b[32m",
        Level::DEBUG => "\x1b[34m",
        Level::TRACE => "\x1b[35m",
    }
}

#[cfg(test)]
mod tests {
    use std::sync::{Arc, Mutex};

    use tracing_subscriber::{fmt::MakeWriter, layer::SubscriberExt as _};

    use super::*;

    #[derive(Clone, Default)]
    struct Memory(Arc<Mutex<Vec<u8>>>);

    impl std::io::Write for Memory {
        fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
            self.0.lock().unwrap().extend_from_slice(bytes);
            Ok(bytes.len())
        }

        fn flush(&mut self) -> std::io::Result<()> {
            Ok(())
        }
    }

    impl MakeWriter<'_> for Memory {
        type Writer = Self;

        fn make_writer(&self) -> Self {
            self.clone()
        }
    }

    fn written(format: LogFormat, log: impl FnOnce()) -> String {
        let memory = Memory::default();
        let lines = Lines { format, is_terminal: false, service_name: "a \"service\"".to_owned() };
        let layer = tracing_subscriber::fmt::layer().event_format(lines).with_writer(memory.clone());
        tracing::subscriber::with_default(tracing_subscriber::registry().with(layer), log);
        let bytes = memory.0.lock().unwrap().clone();
        String::from_utf8(bytes).unwrap()
    }

    #[test]
    fn json_lines_are_flat_and_carry_the_trace() {
        let context = TraceContext::new_span(None);
        let line = written(LogFormat::Json, || {
            let _entered = context.enter();
            tracing::warn!(
                count = 3,
                ratio = 0.5,
                nothing = f64::NAN,
                yes = true,
                level = "mine",
                text = "a \"b\"\nc",
                "it \"happened\"\n{}",
                1
            );
        });
        let json: serde_json::Value = serde_json::from_str(&line).unwrap();
        for (key, value) in [
            ("level", "WARN".into()),
            ("target", module_path!().into()),
            ("message", "it \"happened\"\n1".into()),
            ("count", 3.into()),
            ("ratio", 0.5.into()),
            ("nothing", "NaN".into()),
            ("yes", true.into()),
            ("field.level", "mine".into()),
            ("text", "a \"b\"\nc".into()),
            ("trace_id", format!("{:032x}", context.trace_id).into()),
            ("span_id", format!("{:016x}", context.span_id).into()),
            ("service.name", "a \"service\"".into()),
        ] {
            assert_eq!(json[key], serde_json::Value::clone(&value), "{key} in {line}");
        }
        assert!(humantime::parse_rfc3339(json["timestamp"].as_str().unwrap()).is_ok(), "{line}");
        assert!(line.ends_with("}\n") && line.lines().count() == 1, "{line}");
    }

    #[test]
    fn a_value_cannot_begin_a_line_or_paint_the_terminal() {
        for format in [LogFormat::Pretty, LogFormat::Json] {
            let line = written(format, || {
                let evil = "a\n2026-11-22 ERROR \u{1b}[31m";
                tracing::info!(evil, display = %evil, debug = ?evil, "{evil}");
            });
            assert_eq!(line.matches('\n').count(), 1, "{line:?}");
            assert!(!line.contains('\u{1b}'), "{line:?}");
        }
    }

    #[test]
    fn pretty_lines_read_from_left_to_right() {
        let line = written(LogFormat::Pretty, || tracing::info!(connections = 3, name = "x", "draining"));
        let (time, rest) = line.split_once(' ').unwrap();
        assert!(humantime::parse_rfc3339(time).is_ok(), "{line}");
        assert_eq!(rest, format!(" INFO {}: draining connections=3 name=\"x\"\n", module_path!()));
    }
}
