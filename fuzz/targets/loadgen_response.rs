//! A response in any pieces is the same response.
#![no_main]

use libfuzzer_sys::fuzz_target;
use loadgen::engine::response::{Event, Parser, Progress};

fuzz_target!(|input: (u8, Vec<u8>)| {
    let (cut, bytes) = input;
    let whole = parse(&bytes, bytes.len().max(1));
    let pieces = parse(&bytes, usize::from(cut % 16) + 1);
    assert_eq!(whole, pieces);
});

/// The body of the first response, and whether it is complete; `None` where it is malformed.
fn parse(bytes: &[u8], piece: usize) -> Option<(Vec<u8>, bool)> {
    let mut parser = Parser::new(false);
    let mut body = Vec::new();
    for chunk in bytes.chunks(piece) {
        let progress = parser.feed(chunk, |event| {
            if let Event::Body(part) = event {
                body.extend_from_slice(part);
            }
        });
        match progress {
            Ok(Progress::Complete { .. }) => return Some((body, true)),
            Ok(Progress::NeedMore) => {}
            Err(_) => return None,
        }
    }
    Some((body, false))
}
