//! Without a limit to what is opened at once, the start of a run overflows the server's listen backlog; without patience,
//! a load that starts before its server is over at once.

use std::{rc::Rc, sync::Arc, time::Duration};

use http::Method;
use tokio::{
    sync::{Semaphore, mpsc, watch},
    task::JoinSet,
};

use crate::{
    connection::Backoff,
    engine::{
        Link,
        http2::session::{Group, Joined, Session},
        raw::RawLink,
        wire::Socket,
    },
    failure::{Failure, FailureClass},
    plan::Protocol,
    pulse::{Counted, Pulse},
    run::{News, Phase, Shared},
};

/// Connections that a worker opens at the same time; a listen backlog is often 128.
const TOGETHER_MAX: usize = 64;

/// Until somebody whose place is taken by a guest looks again.
const GUEST_PAUSE: Duration = Duration::from_millis(1);

/// A link, and the connection that is open as long as it lives; streams share one that counts itself.
#[derive(Debug)]
pub(crate) struct OpenLink {
    pub(crate) link: Link,
    _open: Option<Counted>,
}

/// Opens the links of one worker.
#[derive(Debug)]
pub(crate) struct Opener {
    shared: Arc<Shared>,
    permits: Semaphore,
    /// One for each HTTP/2 connection of the worker; none for HTTP/1.1.
    groups: Vec<Group>,
    pulse: Rc<Pulse>,
}

impl Opener {
    /// For a worker with `connections` connections.
    pub(crate) fn new(shared: &Arc<Shared>, connections: usize, pulse: Rc<Pulse>) -> Self {
        let groups = if shared.plan.protocol == Protocol::Http1 { 0 } else { connections };
        Self {
            shared: Arc::clone(shared),
            permits: Semaphore::new(TOGETHER_MAX),
            groups: (0..groups).map(|_| Group::default()).collect(),
            pulse,
        }
    }

    /// Opens link `index`, or takes a stream of its connection: of another one first if that one refused a request
    /// (`shift` is how often). `None` if the server allows no more streams on the connection.
    pub(crate) async fn open(&self, index: usize, shift: usize) -> Result<Option<OpenLink>, Failure> {
        if self.groups.is_empty() {
            return self.open_http1().await.map(Some);
        }
        if shift > 0
            && let Joined::Stream(stream) = self.join(index + shift).await?
        {
            return Ok(Some(OpenLink { link: Link::Http2(stream), _open: None }));
        }
        let place = index / self.groups.len();
        loop {
            match self.join(index).await? {
                Joined::Stream(stream) => {
                    return Ok(Some(OpenLink { link: Link::Http2(stream), _open: None }));
                }
                Joined::Full { allowed } if place >= allowed => return Ok(None),
                // A guest from another connection has it, for one request.
                Joined::Full { .. } => tokio::time::sleep(GUEST_PAUSE).await,
            }
        }
    }

    async fn join(&self, index: usize) -> Result<Joined, Failure> {
        let group = &self.groups[index % self.groups.len()];
        group.join(async || self.attempt(self.open_session()).await).await
    }

    async fn open_http1(&self) -> Result<OpenLink, Failure> {
        let to_head_request = self.shared.plan.head.method == Method::HEAD;
        let handshakes = async {
            let socket = self.socket().await?;
            Ok(match &self.shared.plan.tls {
                None => Link::Plain(RawLink::new(socket, to_head_request)),
                Some(tls) => Link::Tls(RawLink::new(tls.connect(socket).await?, to_head_request).into()),
            })
        };
        let link = self.attempt(handshakes).await?;
        Ok(OpenLink { link, _open: Some(self.pulse.counted()) })
    }

    async fn open_session(&self) -> Result<Rc<Session>, Failure> {
        let socket = self.socket().await?;
        match &self.shared.plan.tls {
            None => Session::open(socket, &self.pulse).await,
            Some(tls) => Session::open(tls.connect(socket).await?, &self.pulse).await,
        }
    }

    async fn socket(&self) -> Result<Socket, Failure> {
        let socket = match &self.shared.plan.unix {
            Some(path) => Socket::unix(path).await,
            None => Socket::tcp(&self.shared.addresses.get().await?).await,
        };
        socket.map_err(|error| Failure::connect(&error))
    }

    /// One of the attempts that are made at a time, with its time limit; after a failed one the name is asked for again.
    async fn attempt<T>(&self, open: impl Future<Output = Result<T, Failure>>) -> Result<T, Failure> {
        // The semaphore is never closed; without a permit the attempt just is not limited.
        let permit = self.permits.acquire().await.ok();
        let timeout = self.shared.connect_timeout();
        let opened = tokio::time::timeout(timeout, open).await.unwrap_or_else(|_elapsed| {
            Err(Failure::new(FailureClass::ConnectTimeout, format!("not connected after {timeout:?}")))
        });
        drop(permit);
        if opened.is_err() && self.shared.plan.unix.is_none() {
            self.shared.addresses.refresh().await;
        }
        opened
    }
}

/// Opens `places` links, a few at a time, and reports how many could be opened.
pub(crate) async fn open_all(
    opener: &Rc<Opener>,
    places: usize,
    phase: &mut watch::Receiver<Phase>,
    news: &mpsc::Sender<News>,
) -> Vec<Option<OpenLink>> {
    let mut links = Vec::with_capacity(places);
    links.resize_with(places, || None);
    let mut open = 0;
    if opener.shared.endless
        && let Some(first) = links.first_mut()
    {
        *first = first_link(opener, phase, news).await;
        open += usize::from(first.is_some());
    }
    let mut attempts = JoinSet::new();
    for index in open..places {
        let opener = Rc::clone(opener);
        attempts.spawn_local(async move { (index, opener.open(index, 0).await) });
    }
    let mut failure = None;
    while let Some(attempt) = tokio::select! {
        attempt = attempts.join_next() => attempt,
        _ = phase.changed() => None,
    } {
        match attempt {
            Ok((index, Ok(link))) => {
                open += usize::from(link.is_some());
                links[index] = link;
            }
            Ok((_, Err(failed))) => failure = Some(failed),
            // Aborting is left to the drop of the set, so this is a panic: let it be seen.
            Err(error) => std::panic::resume_unwind(error.into_panic()),
        }
    }
    // The receiver is gone only if the controller gave up, and then nobody wants to know.
    news.send(News::Connected { opened: open, failure }).await.unwrap_or_default();
    links
}

/// An endless run waits for a server that is not there yet: tries one connection until it is open. `None` if the run
/// ends before.
async fn first_link(
    opener: &Opener,
    phase: &mut watch::Receiver<Phase>,
    news: &mpsc::Sender<News>,
) -> Option<OpenLink> {
    let patience = async {
        let mut backoff = Backoff::new();
        loop {
            match opener.open(0, 0).await {
                Ok(link) => break link,
                // The receiver is gone only if the controller gave up, and then nobody wants to know.
                Err(failure) => news.send(News::Waiting(failure)).await.unwrap_or_default(),
            }
            backoff.wait().await;
        }
    };
    tokio::select! {
        link = patience => link,
        _ = phase.changed() => None,
    }
}
