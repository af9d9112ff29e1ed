use proptest::prelude::*;

use super::{
    frames::{END_HEADERS, END_STREAM},
    *,
};

const LIMITS: Limits = Limits { control_frames: 100, resets: 20, continuations: 4, block_bytes: 40_000 };
const SECOND: u64 = 1_000_000_000;

fn frame(kind: u8, flags: u8, stream: u32, length: usize) -> Vec<u8> {
    let mut frame = vec![0; 9 + length];
    frame[..3].copy_from_slice(&u32::try_from(length).unwrap().to_be_bytes()[1..]);
    (frame[3], frame[4]) = (kind, flags);
    frame[5..9].copy_from_slice(&stream.to_be_bytes());
    frame
}

/// A client that has said hello.
fn greeted() -> Http2 {
    let mut http2 = Http2::new(LIMITS);
    http2.read(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", 0).unwrap();
    assert_eq!(http2.awaits(), Some(0), "its SETTINGS");
    http2.read(&SETTINGS, 0).unwrap();
    assert_eq!(http2.awaits(), None);
    http2
}

/// How many of the same frame are taken at one instant.
fn taken(frame: &[u8]) -> (usize, Flood) {
    let mut http2 = greeted();
    for sent in 0..10_000 {
        if let Err(too_much) = http2.read(frame, 1) {
            assert_eq!(too_much.valid, 0);
            return (sent, too_much.flood);
        }
    }
    panic!("no limit");
}

#[test]
fn frames_that_move_nothing_are_bounded() {
    // PRIORITY, PING, GOAWAY, WINDOW_UPDATE, and one that nobody knows. The SETTINGS of the greeting cost four.
    for kind in [2, 6, 7, 8, 0x77] {
        assert_eq!(taken(&frame(kind, 0, 0, 8)), (96, Flood::Control), "{kind}");
    }
    assert_eq!(taken(&frame(kind::DATA, 0, 1, 0)), (96, Flood::Control), "an empty piece of a body");
    assert_eq!(taken(&SETTINGS), (24, Flood::Control));
    assert_eq!(taken(&frame(kind::RST_STREAM, 0, 1, 4)), (20, Flood::Resets));
}

#[test]
fn a_header_block_is_bounded_in_frames_and_in_bytes() {
    let continuation = frame(kind::CONTINUATION, 0, 1, 0);
    let mut http2 = greeted();
    http2.read(&frame(kind::HEADERS, 0, 1, 10), 1).unwrap();
    assert_eq!(http2.awaits(), Some(1));
    for _ in 0..4 {
        http2.read(&continuation, 1).unwrap();
    }
    assert_eq!(http2.read(&continuation, 1), Err(TooMuch { flood: Flood::HeaderBlock, valid: 0 }));

    let mut http2 = greeted();
    http2.read(&frame(kind::HEADERS, 0, 1, 16_384), 1).unwrap();
    http2.read(&frame(kind::CONTINUATION, 0, 1, 16_384), 1).unwrap();
    let last = frame(kind::CONTINUATION, END_HEADERS, 1, 16_384);
    assert_eq!(http2.read(&last, 1), Err(TooMuch { flood: Flood::HeaderBlock, valid: 0 }));
}

#[test]
fn a_header_block_is_awaited_to_the_end_of_its_last_payload() {
    let mut http2 = greeted();
    let headers = frame(kind::HEADERS, END_HEADERS, 1, 10);
    http2.read(&headers[..18], 1).unwrap();
    assert_eq!(http2.awaits(), Some(1));
    http2.read(&headers[18..], 1).unwrap();
    assert_eq!((http2.awaits(), http2.last_stream()), (None, 1));
    http2.read(&frame(kind::HEADERS, 0, 3, 10), 1).unwrap();
    assert_eq!(http2.awaits(), Some(2), "another than before: its time begins anew");
}

/// 100,000 requests per second for ten seconds, as eager clients and gRPC send them: for each request two updates of
/// windows and a ping, and every tenth is cancelled after its answer has begun.
#[test]
fn a_fast_client_at_work_is_never_stopped() {
    let mut http2 = greeted();
    let request = frame(kind::HEADERS, END_HEADERS | END_STREAM, 1, 40);
    let (update, ping) = (frame(8, 0, 1, 4), frame(6, 0, 0, 8));
    let answer = [frame(kind::HEADERS, END_HEADERS, 1, 40), frame(kind::DATA, END_STREAM, 1, 100)].concat();
    for n in 0..1_000_000_u64 {
        let now = n * (SECOND / 100_000);
        http2.read(&request, now).unwrap();
        http2.wrote(&answer);
        http2.read(&[update.as_slice(), &update, &ping].concat(), now).unwrap();
        if n % 10 == 0 {
            http2.read(&frame(kind::RST_STREAM, 0, 1, 4), now).unwrap();
        }
    }
}

/// A client that reads a large response late sends all its updates of windows at once.
#[test]
fn updates_that_come_late_and_together_are_paid_for() {
    let mut http2 = greeted();
    let data = frame(kind::DATA, 0, 1, 1000);
    let update = frame(8, 0, 1, 4);
    for _ in 0..10_000 {
        http2.wrote(&data);
    }
    for _ in 0..20_000 {
        http2.read(&update, 1).unwrap();
    }
}

#[test]
fn a_client_that_pings_often_and_does_nothing_else_is_let_be() {
    let mut http2 = greeted();
    let ping = frame(6, 0, 0, 8);
    for n in 0..10_000 {
        http2.read(&ping, n * SECOND / 90).unwrap();
    }
}

/// Our answers to its pings do not pay for more of them.
#[test]
fn a_flood_does_not_pay_for_itself() {
    let mut http2 = greeted();
    let (ping, answer) = (frame(6, 0, 0, 8), frame(6, 1, 0, 8));
    let stopped = (0..1000).find(|_| {
        http2.wrote(&answer);
        http2.read(&ping, 1).is_err()
    });
    assert_eq!(stopped, Some(96));
}

fn frames() -> impl Strategy<Value = Vec<u8>> {
    let one = (0..12_u8, any::<u8>(), 0..5_u32, 0..40_usize)
        .prop_map(|(kind, flags, stream, length)| frame(kind, flags, stream, length));
    prop::collection::vec(one, 0..60)
        .prop_map(|frames| [b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".to_vec(), frames.concat()].concat())
}

proptest! {
    #[test]
    fn any_way_of_tearing_the_frames_gives_the_same_verdict(stream in frames(), cuts in prop::collection::vec(any::<prop::sample::Index>(), 0..8)) {
        let limits = Limits { control_frames: 20, resets: 3, continuations: 2, block_bytes: 60 };
        let whole = Http2::new(limits).read(&stream, 1);
        let mut cuts: Vec<_> = cuts.iter().map(|cut| cut.index(stream.len() + 1)).collect();
        cuts.extend([0, stream.len()]);
        cuts.sort_unstable();
        let mut http2 = Http2::new(limits);
        let torn = cuts.windows(2).find_map(|cut| http2.read(&stream[cut[0]..cut[1]], 1).err());
        prop_assert_eq!(torn.map(|torn| torn.flood), whole.err().map(|whole| whole.flood));
        if let Err(too_much) = whole {
            prop_assert!(too_much.valid <= stream.len());
        }
    }

    #[test]
    fn what_is_certain_of_a_frame_ends_with_it(stream in frames(), at in any::<prop::sample::Index>()) {
        let body = &stream[24..];
        let mut frames = Frames::default();
        let mut bytes = &body[..at.index(body.len() + 1)];
        while !bytes.is_empty() {
            bytes = &bytes[frames.step(bytes).0..];
        }
        let mut left = &body[at.index(body.len() + 1)..];
        while !frames.is_between() {
            let certain = frames.certain();
            prop_assert!(certain > 0 && certain <= left.len());
            let (read, _) = frames.step(&left[..certain]);
            left = &left[read..];
        }
    }
}
