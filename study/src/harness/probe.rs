//! Without a look at new connections, a server that serves the old ones and nobody else would seem well.

use std::{
    io::{Read as _, Write as _},
    net::{SocketAddr, TcpStream},
    time::{Duration, Instant},
};

use anyhow::bail;

/// A server has recovered when it answers so many new connections in a row...
pub const RECOVERED_ANSWERS: u32 = 3;

/// ...each within this time.
pub const RECOVERED_WITHIN: Duration = Duration::from_millis(50);

/// A server that has not recovered by then does not.
const RECOVERY_MAX: Duration = Duration::from_secs(30);

/// How long it takes until new connections are served as if nothing had been.
///
/// # Errors
/// If it takes too long.
pub fn recovery(server: SocketAddr) -> anyhow::Result<Duration> {
    let began = Instant::now();
    let (mut in_a_row, mut first) = (0, began.elapsed());
    while in_a_row < RECOVERED_ANSWERS {
        if began.elapsed() > RECOVERY_MAX {
            bail!("new connections are not answered {RECOVERY_MAX:?} after the end of the attack");
        }
        let asked = Instant::now();
        if answers(server) && asked.elapsed() < RECOVERED_WITHIN {
            in_a_row += 1;
        } else {
            (in_a_row, first) = (0, began.elapsed());
        }
    }
    Ok(first)
}

fn answers(server: SocketAddr) -> bool {
    let asked = || {
        let mut stream = TcpStream::connect_timeout(&server, Duration::from_secs(1))?;
        stream.set_read_timeout(Some(Duration::from_secs(1)))?;
        stream.write_all(b"GET /echo HTTP/1.1\r\nhost: probe\r\nconnection: close\r\n\r\n")?;
        let mut answer = Vec::new();
        stream.read_to_end(&mut answer)?;
        std::io::Result::Ok(answer)
    };
    asked().is_ok_and(|answer| answer.starts_with(b"HTTP/1.1 200"))
}
