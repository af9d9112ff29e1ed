//! How sockets go from one process to the next: over a Unix socket that is the new process's standard input, as
//! descriptors in messages. Numbers in the environment would leave every descriptor open across `exec`, and be believed by
//! whoever inherits the environment.
//!
//! ```text
//! old                          new
//! socket KIND held|ours        ->   and its descriptor; several in a message; held: by the service manager, too
//! restarts NAME COUNT          ->   what the counters go on from
//! end                          ->
//!                              <-   ready: it serves
//! go                           ->   the old one accepts nothing from here on
//! ```

use std::{
    fmt::Write as _,
    io::{self, IoSlice, IoSliceMut},
    mem::MaybeUninit,
    os::fd::{AsFd, BorrowedFd, OwnedFd},
};

use rustix::{
    cmsg_space,
    io::Errno,
    net::{
        AddressFamily, RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer,
        SendAncillaryMessage, SendFlags, SocketFlags, SocketType, recvmsg, sendmsg, socketpair,
    },
};
use tokio::{io::Interest, net::UnixDatagram};

use super::sockets::{SocketKind, Sockets};
use crate::telemetry::metrics::Restart;

/// The old process's id. Only its child believes it, so that no grandchild takes its standard input for a handover.
pub(crate) const PREDECESSOR: &str = "ECHO_PREDECESSOR";

/// Descriptors in one message; the kernel takes 253.
const SOCKETS_PER_MESSAGE: usize = 32;

/// Bytes of one message, well above what [`SOCKETS_PER_MESSAGE`] lines take.
const MESSAGE_MAX: usize = 4096;

const HELD: &str = "held";
const OURS: &str = "ours";
const READY: &[u8] = b"ready\n";
const GO: &[u8] = b"go\n";

/// What the old process gives to the new one.
#[derive(Debug, Default)]
pub(super) struct Terms {
    pub(super) sockets: Sockets,
    pub(super) restarts: [u64; Restart::ALL.len()],
}

/// One line of a message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Line {
    Socket { kind: SocketKind, is_held: bool },
    Restarts(Restart, u64),
    End,
}

/// The lines of a message. Lines of other versions of the program are left out, except that a socket must be known.
///
/// # Errors
/// What is wrong with it.
pub(crate) fn parse(message: &[u8]) -> Result<Vec<Line>, &'static str> {
    let text = std::str::from_utf8(message).map_err(|_not_utf8| "not UTF-8")?;
    let mut lines = Vec::new();
    for line in text.lines() {
        let mut words = line.split(' ');
        match (words.next(), words.next(), words.next()) {
            (Some("socket"), Some(kind), held) => {
                let kind = SocketKind::from_name(kind).ok_or("a socket of an unknown kind")?;
                lines.push(Line::Socket { kind, is_held: held == Some(HELD) });
            }
            (Some("restarts"), Some(name), Some(count)) => {
                if let (Some(result), Ok(count)) = (Restart::from_name(name), count.parse()) {
                    lines.push(Line::Restarts(result, count));
                }
            }
            (Some("end"), None, None) => lines.push(Line::End),
            _ => {}
        }
    }
    Ok(lines)
}

/// The old process's end of the channel, and the new one's.
pub(super) fn channel() -> io::Result<(OwnedFd, OwnedFd)> {
    // Messages, not bytes: a descriptor stays with its line.
    Ok(socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None)?)
}

/// Says what the new process gets.
pub(super) fn offer(
    channel: &OwnedFd,
    sockets: &Sockets,
    restarts: [u64; Restart::ALL.len()],
) -> io::Result<()> {
    let sockets: Vec<_> = sockets.iter().collect();
    for some in sockets.chunks(SOCKETS_PER_MESSAGE) {
        let mut text = String::new();
        for (kind, socket) in some {
            // Writing to a String cannot fail.
            let _infallible = writeln!(text, "socket {kind} {}", if socket.is_held { HELD } else { OURS });
        }
        let descriptors: Vec<BorrowedFd<'_>> = some.iter().map(|(_, socket)| socket.fd.as_fd()).collect();
        send(channel, text.as_bytes(), &descriptors)?;
    }
    let mut text = String::new();
    for (result, count) in Restart::ALL.into_iter().zip(restarts) {
        let _infallible = writeln!(text, "restarts {} {count}", result.name());
    }
    text.push_str("end\n");
    send(channel, text.as_bytes(), &[])
}

/// Waits for the new process to be ready. False if it ends before that, or says something else.
pub(super) async fn hear_ready(channel: &UnixDatagram) -> io::Result<bool> {
    hear(channel, READY).await
}

/// Lets the new process go on alone. If it has ended by now there is nobody to tell.
pub(super) fn say_go(channel: &UnixDatagram) {
    let _told_or_gone = send(channel, GO, &[]);
}

/// The process that has started us to replace it.
#[derive(Debug)]
pub(crate) struct Predecessor(OwnedFd);

impl Predecessor {
    /// The one of this process, if it has one. Standard input is empty afterwards.
    pub(super) fn of_this_process() -> Option<Self> {
        let said = std::env::var(PREDECESSOR).ok()?.parse::<i32>().ok()?;
        let parent = rustix::process::getppid()?;
        if parent.as_raw_nonzero().get() != said {
            return None;
        }
        let channel = io::stdin().as_fd().try_clone_to_owned().ok()?;
        let empty = std::fs::File::open("/dev/null").ok()?;
        rustix::stdio::dup2_stdin(empty).ok()?;
        Some(Self(channel))
    }

    /// What it gives us.
    pub(super) fn terms(&self) -> io::Result<Terms> {
        let mut terms = Terms::default();
        loop {
            let (message, descriptors) = receive(&self.0)?;
            let mut descriptors = descriptors.into_iter();
            let lines = parse(&message).map_err(invalid)?;
            let is_end = lines.contains(&Line::End);
            for line in lines {
                match line {
                    Line::Socket { kind, is_held } => {
                        let socket = descriptors.next().ok_or_else(|| invalid("a socket is missing"))?;
                        terms.sockets.add(kind, socket, is_held)?;
                    }
                    Line::Restarts(result, count) => terms.restarts[result as usize] = count,
                    Line::End => {}
                }
            }
            if is_end {
                return Ok(terms);
            }
            if message.is_empty() {
                return Err(invalid("the old process has ended"));
            }
        }
    }

    /// Tells it that we serve, and waits until it accepts nothing any more, or has ended.
    pub(super) async fn dismiss(self) {
        let _told_or_gone = send(&self.0, READY, &[]);
        let Ok(channel) = nonblocking(self.0) else { return };
        if let Err(error) = hear(&channel, GO).await {
            tracing::warn!(%error, "the old process does not answer");
        }
    }
}

/// The channel for a runtime to wait on. It is none of datagrams, but waiting is the same.
pub(super) fn nonblocking(channel: OwnedFd) -> io::Result<UnixDatagram> {
    let channel = std::os::unix::net::UnixDatagram::from(channel);
    channel.set_nonblocking(true)?;
    UnixDatagram::from_std(channel)
}

async fn hear(channel: &UnixDatagram, word: &[u8]) -> io::Result<bool> {
    loop {
        channel.readable().await?;
        match channel.try_io(Interest::READABLE, || receive(channel)) {
            Ok((message, _descriptors)) => return Ok(message == word),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
            Err(error) => return Err(error),
        }
    }
}

fn send(channel: impl AsFd, message: &[u8], descriptors: &[BorrowedFd<'_>]) -> io::Result<()> {
    let mut space = [MaybeUninit::uninit(); cmsg_space!(ScmRights(SOCKETS_PER_MESSAGE))];
    let mut control = SendAncillaryBuffer::new(&mut space);
    if !descriptors.is_empty() && !control.push(SendAncillaryMessage::ScmRights(descriptors)) {
        return Err(invalid("too many descriptors for one message"));
    }
    sendmsg(channel, &[IoSlice::new(message)], &mut control, SendFlags::NOSIGNAL)?;
    Ok(())
}

/// The next message; empty at the end.
fn receive(channel: impl AsFd) -> io::Result<(Vec<u8>, Vec<OwnedFd>)> {
    let mut message = vec![0; MESSAGE_MAX];
    let mut space = [MaybeUninit::uninit(); cmsg_space!(ScmRights(SOCKETS_PER_MESSAGE))];
    let mut control = RecvAncillaryBuffer::new(&mut space);
    let received = loop {
        let buffer = &mut [IoSliceMut::new(&mut message)];
        match recvmsg(&channel, buffer, &mut control, RecvFlags::CMSG_CLOEXEC) {
            Err(Errno::INTR) => {}
            // The other end closed with a message of ours unread.
            Err(Errno::CONNRESET) => break 0,
            other => break other?.bytes,
        }
    };
    message.truncate(received);
    let mut descriptors = Vec::new();
    for ancillary in control.drain() {
        if let RecvAncillaryMessage::ScmRights(some) = ancillary {
            descriptors.extend(some);
        }
    }
    Ok((message, descriptors))
}

fn invalid(why: &'static str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, format!("the handover is not understood: {why}"))
}

#[cfg(test)]
mod tests {
    use std::{
        net::{TcpListener, TcpStream},
        os::unix::net::UnixListener,
    };

    use super::*;
    use proptest::prelude::*;

    #[test]
    fn sockets_arrive_with_their_kinds_and_their_queues() {
        let first = TcpListener::bind("127.0.0.1:0").unwrap();
        let waiting = TcpStream::connect(first.local_addr().unwrap()).unwrap();
        let path = std::env::temp_dir().join(format!("echo-handover-{}", std::process::id()));
        let unix = UnixListener::bind(&path).unwrap();
        std::fs::remove_file(&path).unwrap();
        let mut sockets = Sockets::default();
        for _ in 0..SOCKETS_PER_MESSAGE {
            sockets.keep(SocketKind::Http, &first, false).unwrap();
        }
        sockets.keep(SocketKind::Unix, &unix, true).unwrap();
        let (old, new) = channel().unwrap();
        offer(&old, &sockets, [3, 2, 1]).unwrap();
        drop((sockets, first, unix));

        let mut terms = Predecessor(new).terms().unwrap();
        assert_eq!(terms.restarts, [3, 2, 1]);
        let mut http = terms.sockets.take(SocketKind::Http);
        assert_eq!(http.len(), SOCKETS_PER_MESSAGE);
        assert!(http.iter().all(|socket| !socket.is_held));
        assert!(terms.sockets.take_one(SocketKind::Unix).unwrap().unwrap().is_held);
        let (_accepted, peer) = TcpListener::from(http.remove(0).fd).accept().unwrap();
        assert_eq!(peer, waiting.local_addr().unwrap());
    }

    #[test]
    fn an_old_process_that_ends_half_way_is_an_error_and_no_hang() {
        let (old, new) = channel().unwrap();
        send(&old, b"restarts completed 1\n", &[]).unwrap();
        drop(old);
        assert!(Predecessor(new).terms().unwrap_err().to_string().contains("has ended"));
    }

    #[test]
    fn a_line_without_its_socket_and_a_socket_of_the_wrong_kind_are_refused() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let connected = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        let cases: [(&[u8], Vec<BorrowedFd<'_>>, &str); 4] = [
            (b"socket http\nend\n", vec![], "missing"),
            (b"socket unix\nend\n", vec![listener.as_fd()], "not a Unix socket"),
            (b"socket http\nend\n", vec![connected.as_fd()], "not a listening"),
            (b"socket quic\nend\n", vec![listener.as_fd()], "unknown kind"),
        ];
        for (message, descriptors, why) in cases {
            let (old, new) = channel().unwrap();
            send(&old, message, &descriptors).unwrap();
            let error = Predecessor(new).terms().unwrap_err().to_string();
            assert!(error.contains(why), "{error}");
        }
    }

    proptest! {
        #[test]
        fn any_message_is_understood_or_refused(message in prop::collection::vec(any::<u8>(), 0..200)) {
            let _understood_or_refused = parse(&message).is_ok();
        }

        #[test]
        fn what_is_said_is_what_is_understood(kinds in prop::collection::vec((0..4_usize, any::<bool>()), 0..9), count in any::<u64>()) {
            let socket = |(place, is_held)| Line::Socket { kind: SocketKind::ALL[place], is_held };
            let mut said: Vec<Line> = kinds.into_iter().map(socket).collect();
            said.extend([Line::Restarts(Restart::Failed, count), Line::End]);
            let text: String = said.iter().map(|line| match line {
                Line::Socket { kind, is_held: false } => format!("socket {kind}\nsomething new\n"),
                Line::Socket { kind, is_held: true } => format!("socket {kind} held\n"),
                Line::Restarts(result, count) => format!("restarts {} {count}\n", result.name()),
                Line::End => "end\n".to_owned(),
            }).collect();
            prop_assert_eq!(parse(text.as_bytes()).unwrap(), said);
        }
    }
}
