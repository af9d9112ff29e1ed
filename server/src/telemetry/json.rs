//! Writes JSON by hand: a serializer per line costs more than the request that the line is about. Escaping is the part
//! that can go wrong, so it stands here once.

use std::fmt;

/// Appends `text` as the inside of a JSON string.
pub(crate) fn escape(line: &mut Vec<u8>, text: &str) {
    let bytes = text.as_bytes();
    let mut copied = 0;
    for (at, byte) in bytes.iter().enumerate() {
        // Beyond ASCII every byte of UTF-8 may stand as it is.
        if *byte >= 0x20 && *byte != b'"' && *byte != b'\\' && *byte != 0x7f {
            continue;
        }
        line.extend_from_slice(&bytes[copied..at]);
        copied = at + 1;
        match byte {
            b'"' => line.extend_from_slice(b"\\\""),
            b'\\' => line.extend_from_slice(b"\\\\"),
            b'\n' => line.extend_from_slice(b"\\n"),
            b'\r' => line.extend_from_slice(b"\\r"),
            b'\t' => line.extend_from_slice(b"\\t"),
            control => {
                let digit = |value: u8| b"0123456789abcdef"[usize::from(value & 0xf)];
                line.extend_from_slice(&[b'\\', b'u', b'0', b'0', digit(control >> 4), digit(*control)]);
            }
        }
    }
    line.extend_from_slice(&bytes[copied..]);
}

/// Whatever is written to it arrives escaped; the quotes around it are the caller's.
pub(crate) struct Escaped<'a>(pub(crate) &'a mut Vec<u8>);

impl fmt::Write for Escaped<'_> {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        escape(self.0, text);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn quoted(text: &str) -> String {
        let mut line = vec![b'"'];
        escape(&mut line, text);
        line.push(b'"');
        String::from_utf8(line).unwrap()
    }

    #[test]
    fn what_would_end_a_string_or_a_line_is_escaped() {
        assert_eq!(quoted("a\"b\\c\n\r\t\u{1}\u{7f}ü€😀"), r#""a\"b\\c\n\r\t\u0001\u007fü€😀""#);
    }

    proptest! {
        #[test]
        fn any_text_is_read_back_as_it_was(text in any::<String>()) {
            let line = quoted(&text);
            prop_assert_eq!(serde_json::from_str::<String>(&line).unwrap(), text);
            prop_assert!(!line.bytes().any(|byte| byte < 0x20));
        }
    }
}
