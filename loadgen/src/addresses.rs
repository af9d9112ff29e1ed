//! Without asking for the name again, a run would talk for ever to the address of a container that is gone.

use std::{
    io,
    net::{SocketAddr, ToSocketAddrs},
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
};

use crate::{
    clock::{NANOS_PER_SECOND, monotonic_ns},
    failure::{Failure, FailureClass},
    target::Target,
};

/// Time between two questions for the same name, over all connections.
const ASK_PAUSE_NS: u64 = NANOS_PER_SECOND;

/// What the target's name stands for.
#[derive(Debug)]
pub(crate) struct Addresses {
    host: String,
    port: u16,
    known: Mutex<Arc<[SocketAddr]>>,
    ask_from_ns: AtomicU64,
}

impl Addresses {
    /// Nothing is known yet.
    pub(crate) fn new(target: &Target) -> Self {
        let known = Mutex::new(Arc::new([]) as Arc<[SocketAddr]>);
        Self { host: target.host.clone(), port: target.port, known, ask_from_ns: AtomicU64::new(0) }
    }

    /// Asks for the first time, on the calling thread.
    pub(crate) fn ask_now(&self) -> io::Result<()> {
        self.keep((self.host.as_str(), self.port).to_socket_addrs()?)
    }

    /// The addresses; asks for them if none is known yet.
    pub(crate) async fn get(&self) -> Result<Arc<[SocketAddr]>, Failure> {
        if self.known().is_empty() {
            self.ask().await.map_err(|error| {
                let detail = format!("dns: '{}' has no address: {error}", self.host);
                Failure::new(FailureClass::ConnectOther, detail)
            })?;
        }
        Ok(self.known())
    }

    /// Nobody answers at the known addresses: asks again, at most once a second. Without an answer they stay.
    pub(crate) async fn refresh(&self) {
        let now_ns = monotonic_ns();
        let from_ns = self.ask_from_ns.load(Relaxed);
        let mine = now_ns >= from_ns
            && self
                .ask_from_ns
                .compare_exchange(from_ns, now_ns.saturating_add(ASK_PAUSE_NS), Relaxed, Relaxed)
                .is_ok();
        if mine {
            self.ask().await.unwrap_or_default();
        }
    }

    async fn ask(&self) -> io::Result<()> {
        self.keep(tokio::net::lookup_host((self.host.as_str(), self.port)).await?)
    }

    fn keep(&self, found: impl Iterator<Item = SocketAddr>) -> io::Result<()> {
        let found: Arc<[SocketAddr]> = found.collect();
        if found.is_empty() {
            return Err(io::ErrorKind::NotFound.into());
        }
        *self.known.lock().unwrap_or_else(PoisonError::into_inner) = found;
        Ok(())
    }

    fn known(&self) -> Arc<[SocketAddr]> {
        Arc::clone(&self.known.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn addresses(url: &str) -> Addresses {
        Addresses::new(&Target::parse(url).unwrap())
    }

    #[tokio::test(flavor = "current_thread")]
    async fn the_name_is_asked_for_when_nothing_is_known() {
        let addresses = addresses("http://127.0.0.1:7/");
        assert_eq!(*addresses.get().await.unwrap(), ["127.0.0.1:7".parse().unwrap()]);
    }

    #[tokio::test(flavor = "current_thread")]
    async fn a_name_without_an_address_is_a_failure_that_says_so() {
        let failure = addresses("http://name.invalid/").get().await.unwrap_err();
        assert_eq!(failure.class, FailureClass::ConnectOther);
        assert!(failure.detail.starts_with("dns: 'name.invalid' has no address"), "{}", failure.detail);
    }

    #[tokio::test(flavor = "current_thread")]
    async fn a_new_address_is_found_and_an_unanswered_question_changes_nothing() {
        let gone: Arc<[SocketAddr]> = ["127.0.0.9:7".parse().unwrap()].into();
        let moved = addresses("http://127.0.0.1:7/");
        *moved.known.lock().unwrap() = Arc::clone(&gone);
        moved.refresh().await;
        assert_eq!(*moved.known(), ["127.0.0.1:7".parse().unwrap()]);
        // The next question has to wait.
        *moved.known.lock().unwrap() = Arc::clone(&gone);
        moved.refresh().await;
        assert_eq!(*moved.known(), *gone);

        let unknown = addresses("http://name.invalid/");
        *unknown.known.lock().unwrap() = Arc::clone(&gone);
        unknown.refresh().await;
        assert_eq!(*unknown.known(), *gone);
    }
}
