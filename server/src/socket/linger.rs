//! Closing without a reset: closing a socket with unread input makes the kernel send one, and the client loses the answer
//! that told it to stop (413, 503, 408, 431).

use std::{
    future::Future as _,
    pin::Pin,
    task::{Context, Poll, ready},
    time::Duration,
};

use tokio::{
    io::{AsyncRead, ReadBuf},
    time::{Instant, Sleep},
};

use crate::config::Config;

/// How long a client that was answered early is read from.
#[derive(Clone, Copy, Debug)]
pub(crate) struct LingerLimits {
    /// While it is silent.
    pub(crate) silent: Duration,
    /// In all.
    pub(crate) total: Duration,
}

impl LingerLimits {
    pub(crate) fn of(config: &Config) -> Self {
        Self { silent: config.linger_timeout.min(config.linger_max), total: config.linger_max }
    }
}

/// Reads and drops, after the write side was closed, until the client has closed, too, or the limits have passed.
#[derive(Debug)]
pub(crate) struct Linger {
    silent: Duration,
    until: Instant,
    timer: Pin<Box<Sleep>>,
}

impl Linger {
    pub(crate) fn begin(limits: LingerLimits) -> Self {
        let until = Instant::now() + limits.total;
        Self { silent: limits.silent, until, timer: Box::pin(tokio::time::sleep(limits.silent)) }
    }

    /// Ready when the socket can be closed, whether or not that loses something.
    pub(crate) fn poll(&mut self, mut io: Pin<&mut impl AsyncRead>, cx: &mut Context<'_>) -> Poll<()> {
        let mut scratch = [0; 16 * 1024];
        while self.timer.as_mut().poll(cx).is_pending() {
            let mut buf = ReadBuf::new(&mut scratch);
            let read = ready!(io.as_mut().poll_read(cx, &mut buf));
            if read.is_err() || buf.filled().is_empty() {
                break;
            }
            let next = (Instant::now() + self.silent).min(self.until);
            self.timer.as_mut().reset(next);
        }
        Poll::Ready(())
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::AsyncWriteExt as _;

    use super::*;

    const LIMITS: LingerLimits =
        LingerLimits { silent: Duration::from_secs(2), total: Duration::from_secs(30) };

    /// Lingers on a client that writes every `pause`; returns for how long, in seconds.
    async fn linger(pause: Duration) -> u64 {
        let (mut ours, mut client) = tokio::io::duplex(1024);
        let began = Instant::now();
        let mut linger = Linger::begin(LIMITS);
        let sending = async {
            loop {
                tokio::time::sleep(pause).await;
                if client.write_all(b"more").await.is_err() {
                    return;
                }
            }
        };
        tokio::select! {
            () = std::future::poll_fn(|cx| linger.poll(Pin::new(&mut ours), cx)) => {}
            () = sending => {}
        }
        began.elapsed().as_secs()
    }

    #[tokio::test(start_paused = true)]
    async fn a_silent_client_is_left_soon_and_a_busy_one_in_the_end() {
        assert_eq!(linger(Duration::from_mins(1)).await, 2);
        assert_eq!(linger(Duration::from_secs(1)).await, 30);
    }
}
