//! What the deadlines decide, in time that stands still between events.

use std::{convert::Infallible, sync::Arc, time::Duration};

use http::{Request, Response};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _, DuplexStream, duplex},
    task::JoinHandle,
    time::Instant,
};

use crate::{
    config::{Config, FdBudget},
    connection,
    core::{Core, Reporting, Role, Slots},
    request::RequestBody,
    socket::peer::Peer,
    telemetry::metrics::ConnectionEnd,
};

const SECOND: Duration = Duration::from_secs(1);

/// One client on a duplex, and the task that serves it.
struct Visit {
    core: Arc<Core>,
    client: DuplexStream,
    task: JoinHandle<()>,
}

impl Visit {
    fn begin(config: Config) -> Self {
        let fds = FdBudget { connections: 8, refusals: 1 };
        Self::of(&Core::new(Role::Data, config, fds, Reporting::default()))
    }

    #[expect(clippy::disallowed_methods, reason = "the test owns the task")]
    fn of(core: &Arc<Core>) -> Self {
        let (client, server) = duplex(64 * 1024);
        let slot = Slots::try_take(core).unwrap();
        let service = tower::service_fn(|request: Request<RequestBody>| async {
            Ok::<_, Infallible>(Response::new(request.into_body()))
        });
        let run = connection::run(server, |_| {}, Peer::Unix, slot, None, service, Arc::clone(core));
        Self { core: Arc::clone(core), client, task: tokio::spawn(run) }
    }

    /// One request; the head of its response.
    async fn ask(&mut self) -> String {
        self.client
            .write_all(b"POST /echo HTTP/1.1\r\nhost: a\r\ncontent-length: 2\r\n\r\nhi")
            .await
            .unwrap();
        let mut response = Vec::new();
        while !response.ends_with(b"\r\n\r\nhi") {
            assert!(self.client.read_buf(&mut response).await.unwrap() > 0, "closed");
        }
        String::from_utf8(response).unwrap()
    }

    /// How long the connection then stays open.
    async fn stays(mut self) -> Duration {
        let began = Instant::now();
        let mut rest = Vec::new();
        self.client.read_to_end(&mut rest).await.unwrap();
        assert!(rest.is_empty(), "{rest:?}");
        self.task.await.unwrap();
        began.elapsed()
    }

    fn ended(&self, end: ConnectionEnd) -> u64 {
        self.core.metrics.sum(|shard| &shard.connections_closed[end as usize])
    }
}

fn ages_at(age: Duration) -> Config {
    Config {
        connection_age_max: age,
        connection_age_jitter: 0,
        keep_alive_timeout: 10 * SECOND,
        drain_idle_grace: SECOND,
        ..Config::default()
    }
}

#[tokio::test(start_paused = true)]
async fn a_busy_connection_is_asked_to_end_at_its_age_and_not_before() {
    let mut visit = Visit::begin(ages_at(60 * SECOND));
    for _ in 0..9 {
        assert!(!visit.ask().await.contains("connection: close"));
        tokio::time::sleep(6 * SECOND + SECOND / 2).await;
    }
    tokio::time::sleep(2 * SECOND).await;
    assert!(visit.ask().await.contains("connection: close"));
    let core = Arc::clone(&visit.core);
    assert_eq!(visit.stays().await, Duration::ZERO);
    assert_eq!(core.metrics.sum(|shard| &shard.connections_closed[ConnectionEnd::Aged as usize]), 1);
}

#[tokio::test(start_paused = true)]
async fn an_idle_connection_has_the_drains_grace_at_its_age() {
    let mut visit = Visit::begin(ages_at(8 * SECOND));
    visit.ask().await;
    let stayed = visit.stays().await;
    // The wheel of timers ticks in milliseconds.
    assert!((9 * SECOND..9 * SECOND + SECOND / 10).contains(&stayed), "{stayed:?}");
}

#[tokio::test(start_paused = true)]
async fn without_an_age_only_idleness_ends_a_connection() {
    let mut visit = Visit::begin(ages_at(Duration::ZERO));
    for _ in 0..100 {
        assert!(!visit.ask().await.contains("connection: close"));
        tokio::time::sleep(9 * SECOND).await;
    }
    visit.ask().await;
    let stayed = visit.stays().await;
    assert!((10 * SECOND..10 * SECOND + SECOND / 10).contains(&stayed), "{stayed:?}");
}

#[tokio::test(start_paused = true)]
async fn the_one_that_has_been_idle_longest_makes_room() {
    let config = Config { evict_idle_min: 2 * SECOND, ..ages_at(Duration::ZERO) };
    let mut first = Visit::begin(config);
    let core = Arc::clone(&first.core);
    let (mut second, mut third) = (Visit::of(&core), Visit::of(&core));
    first.ask().await;
    second.ask().await;
    assert!(!core.registry.evict_one(&core.config), "nobody has been idle for long enough");
    tokio::time::sleep(SECOND).await;
    third.ask().await;
    first.ask().await;
    tokio::time::sleep(SECOND).await;
    assert!(core.registry.evict_one(&core.config));
    assert_eq!(second.stays().await, Duration::ZERO);
    assert!(!core.registry.evict_one(&core.config), "the others were busy a second ago");
    assert!(!first.ask().await.contains("connection: close"));
    assert_eq!((first.ended(ConnectionEnd::Evicted), core.slots.taken()), (1, 2));
}

#[tokio::test(start_paused = true)]
async fn a_connection_with_work_in_progress_is_never_chosen() {
    let config = Config { evict_idle_min: Duration::ZERO, ..ages_at(Duration::ZERO) };
    let mut in_head = Visit::begin(config);
    let core = Arc::clone(&in_head.core);
    let (mut in_body, mut in_preface) = (Visit::of(&core), Visit::of(&core));
    in_head.ask().await;
    in_head.client.write_all(b"POST /echo HTTP/1.1\r\nhost").await.unwrap();
    in_body.client.write_all(b"POST /echo HTTP/1.1\r\nhost: a\r\ncontent-length: 2\r\n\r\nh").await.unwrap();
    in_preface.client.write_all(b"PRI * HTTP").await.unwrap();
    // Time passes only once every task has read what there is.
    tokio::time::sleep(SECOND).await;
    assert!(!core.registry.evict_one(&core.config));
    let silent = Visit::of(&core);
    tokio::time::sleep(SECOND).await;
    assert!(core.registry.evict_one(&core.config), "who says nothing is idle");
    silent.stays().await;
    assert_eq!(core.slots.taken(), 3);
}

#[tokio::test(start_paused = true)]
async fn a_flood_at_the_limit_does_not_look_through_the_list_each_time() {
    let config = Config { evict_idle_min: SECOND, ..ages_at(Duration::ZERO) };
    let mut visit = Visit::begin(config);
    let core = Arc::clone(&visit.core);
    visit.ask().await;
    tokio::time::sleep(SECOND / 100 * 99).await;
    assert!(!core.registry.evict_one(&core.config));
    tokio::time::sleep(SECOND / 100).await;
    assert!(!core.registry.evict_one(&core.config), "it was looked at 10 ms ago");
    tokio::time::sleep(SECOND / 50).await;
    assert!(core.registry.evict_one(&core.config));
    visit.stays().await;
}
