//! A headless tokio-console: subscribes to a server's console, and knows of each task what the terminal would show.

use std::{
    collections::HashMap,
    time::{Duration, Instant, SystemTime},
};

use console_api::{
    Field,
    async_ops::AsyncOp,
    async_ops::Stats as AsyncOpStats,
    field::Name,
    field::Value,
    instrument::{InstrumentRequest, TaskDetailsRequest, Update, instrument_client::InstrumentClient},
    tasks::{Stats, task_details::PollTimesHistogram},
};
use prost::Message as _;
use tokio::{runtime::Runtime, time::timeout};
use tonic::{Streaming, transport::Channel};

use crate::harness::{PATIENCE, Program};

/// A server with the console, its data port, and a console that watches it.
pub(crate) struct Watched {
    pub(crate) program: Program,
    pub(crate) console: Console,
}

impl Watched {
    pub(crate) fn start(args: &[&str]) -> Self {
        let mut program = Program::start(&[&["--console=127.0.0.1:0"], args].concat());
        let address = program.announced("console on http://");
        let console = Console::attach(&format!("http://{address}"));
        Self { program, console }
    }
}

/// One task, as it was announced.
#[derive(Debug)]
pub(crate) struct Task {
    pub(crate) name: String,
    pub(crate) size: u64,
    pub(crate) original_size: Option<u64>,
    pub(crate) spawned_at: String,
}

/// What a console has been told.
#[derive(Debug, Default)]
pub(crate) struct Seen {
    pub(crate) tasks: HashMap<u64, Task>,
    pub(crate) stats: HashMap<u64, Stats>,
    pub(crate) async_ops: HashMap<u64, AsyncOp>,
    pub(crate) async_op_stats: HashMap<u64, AsyncOpStats>,
    pub(crate) dropped: u64,
    /// When the last update was made, by the server's clock.
    pub(crate) now: Option<SystemTime>,
    /// Encoded size of the first update.
    pub(crate) first_update_bytes: usize,
}

impl Seen {
    /// The tasks of one name, with what is known of each.
    pub(crate) fn named<'a>(&'a self, name: &'a str) -> impl Iterator<Item = (&'a Task, &'a Stats)> {
        self.tasks
            .iter()
            .filter(move |(_, task)| task.name == name)
            .filter_map(|(id, task)| Some((task, self.stats.get(id)?)))
    }

    pub(crate) fn live(&self, name: &str) -> usize {
        self.named(name).filter(|(_, stats)| stats.dropped_at.is_none()).count()
    }

    fn take(&mut self, update: Update) {
        if self.first_update_bytes == 0 {
            self.first_update_bytes = update.encoded_len();
        }
        self.now = update.now.map(|now| now.try_into().unwrap());
        if let Some(update) = update.task_update {
            self.dropped += update.dropped_events;
            for task in update.new_tasks {
                self.tasks.insert(task.id.unwrap().id, Task::of(&task.fields, task.location.as_ref()));
            }
            self.stats.extend(update.stats_update);
        }
        if let Some(update) = update.async_op_update {
            self.dropped += update.dropped_events;
            for op in update.new_async_ops {
                self.async_ops.insert(op.id.unwrap().id, op);
            }
            self.async_op_stats.extend(update.stats_update);
        }
        self.dropped += update.resource_update.map_or(0, |update| update.dropped_events);
    }
}

impl Task {
    fn of(fields: &[Field], location: Option<&console_api::Location>) -> Self {
        let value = |name: &str| {
            let is_it = |field: &&Field| matches!(&field.name, Some(Name::StrName(it)) if it == name);
            fields.iter().find(is_it).and_then(|field| field.value.as_ref())
        };
        let number = |name| match value(name) {
            Some(Value::U64Val(number)) => Some(*number),
            _ => None,
        };
        let name = match value("task.name") {
            Some(Value::DebugVal(name) | Value::StrVal(name)) => name.clone(),
            _ => String::new(),
        };
        Self {
            name,
            size: number("size.bytes").unwrap_or_default(),
            original_size: number("original_size.bytes"),
            spawned_at: location.and_then(|location| location.file.clone()).unwrap_or_default(),
        }
    }
}

/// A connection to a console server.
pub(crate) struct Console {
    pub(crate) address: String,
    runtime: Runtime,
    client: InstrumentClient<Channel>,
    updates: Streaming<Update>,
    pub(crate) seen: Seen,
}

impl Console {
    pub(crate) fn attach(address: &str) -> Self {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let (client, updates) = runtime.block_on(async {
            let client = InstrumentClient::connect(address.to_owned()).await.unwrap();
            // The stock console takes 4 MiB; these tests say what the size is.
            let mut client = client.max_decoding_message_size(usize::MAX);
            let updates = client.watch_updates(InstrumentRequest {}).await.unwrap().into_inner();
            (client, updates)
        });
        Self { address: address.to_owned(), runtime, client, updates, seen: Seen::default() }
    }

    /// Takes updates until `condition` holds; then all of what it has been told.
    pub(crate) fn until(&mut self, what: &str, condition: impl Fn(&Seen) -> bool) -> &Seen {
        let began = Instant::now();
        while !condition(&self.seen) {
            assert!(began.elapsed() < PATIENCE, "waited {PATIENCE:?} until {what}: {:#?}", self.seen);
            let update = self.runtime.block_on(async { timeout(PATIENCE, self.updates.message()).await });
            let update = update.unwrap_or_else(|_| panic!("waited {PATIENCE:?} for an update until {what}"));
            self.seen.take(update.unwrap().unwrap());
        }
        &self.seen
    }

    /// How often the task was polled, and the highest of its poll times, as its histogram says.
    pub(crate) fn poll_times(&mut self, name: &str) -> (u64, Duration) {
        let (id, _) = self.seen.tasks.iter().find(|(_, task)| task.name == name).unwrap();
        let request = TaskDetailsRequest { id: Some((*id).into()) };
        let details = self.runtime.block_on(async {
            let mut details = self.client.watch_task_details(request).await.unwrap().into_inner();
            timeout(PATIENCE, details.message()).await.unwrap().unwrap().unwrap()
        });
        let Some(PollTimesHistogram::Histogram(histogram)) = details.poll_times_histogram else {
            panic!("no histogram of {name}")
        };
        let histogram: hdrhistogram::Histogram<u64> = hdrhistogram::serialization::Deserializer::new()
            .deserialize(&mut &histogram.raw_histogram[..])
            .unwrap();
        (histogram.len(), Duration::from_nanos(histogram.max()))
    }
}

pub(crate) fn polls(stats: &Stats) -> u64 {
    stats.poll_stats.as_ref().map_or(0, |polls| polls.polls)
}

pub(crate) fn busy(stats: &Stats) -> Duration {
    let busy = stats.poll_stats.as_ref().and_then(|polls| polls.busy_time);
    busy.map_or(Duration::ZERO, |busy| busy.try_into().unwrap())
}
