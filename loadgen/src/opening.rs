//! Without a limit to what is opened at once, the start of a run overflows the server's listen backlog; without patience,
//! a load that starts before its server is over at once.

use std::{rc::Rc, sync::Arc};

use tokio::{
    sync::{Semaphore, mpsc, watch},
    task::JoinSet,
};

use crate::{
    connection::Backoff,
    engine::Link,
    run::{News, Phase, Shared},
};

/// Connections that a worker opens at the same time; a listen backlog is often 128.
pub(crate) const TOGETHER_MAX: usize = 64;

/// Opens `connections` connections, a few at a time, and reports how many could be opened.
pub(crate) async fn open_all(
    shared: &Arc<Shared>,
    opening: &Rc<Semaphore>,
    connections: usize,
    phase: &mut watch::Receiver<Phase>,
    news: &mpsc::Sender<News>,
) -> Vec<Option<Link>> {
    let mut links = Vec::with_capacity(connections);
    if shared.endless {
        links.extend(first_link(shared, opening, phase, news).await.map(Some));
    }
    let mut attempts = JoinSet::new();
    for _ in links.len()..connections {
        let (shared, opening) = (Arc::clone(shared), Rc::clone(opening));
        attempts.spawn_local(async move { shared.open(&opening).await });
    }
    let mut failure = None;
    while let Some(attempt) = tokio::select! {
        attempt = attempts.join_next() => attempt,
        _ = phase.changed() => None,
    } {
        match attempt {
            Ok(Ok(link)) => links.push(Some(link)),
            Ok(Err(failed)) => failure = Some(failed),
            // Aborting is left to the drop of the set, so this is a panic: let it be seen.
            Err(error) => std::panic::resume_unwind(error.into_panic()),
        }
    }
    let opened = links.len();
    links.resize_with(connections, || None);
    // The receiver is gone only if the controller gave up, and then nobody wants to know.
    news.send(News::Connected { opened, failure }).await.unwrap_or_default();
    links
}

/// An endless run waits for a server that is not there yet: tries one connection until it is open. `None` if the run
/// ends before.
async fn first_link(
    shared: &Arc<Shared>,
    opening: &Rc<Semaphore>,
    phase: &mut watch::Receiver<Phase>,
    news: &mpsc::Sender<News>,
) -> Option<Link> {
    let patience = async {
        let mut backoff = Backoff::new();
        loop {
            match shared.open(opening).await {
                Ok(link) => break link,
                // The receiver is gone only if the controller gave up, and then nobody wants to know.
                Err(failure) => news.send(News::Waiting(failure)).await.unwrap_or_default(),
            }
            backoff.wait().await;
        }
    };
    tokio::select! {
        link = patience => Some(link),
        _ = phase.changed() => None,
    }
}
