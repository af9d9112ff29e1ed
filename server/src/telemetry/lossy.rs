//! Lines on their way to a file or pipe: whoever writes to it himself waits for a full disk or for a reader that has
//! stopped, and a request waits with him.
//!
//! Each thread appends to a buffer of its own; one thread takes what is there and writes it. Where the buffer is full
//! the line is lost, and counted.

use std::{
    fs::File,
    io::{self, Write},
    path::Path,
    sync::{
        Arc, Condvar, Mutex, MutexGuard, OnceLock, PoisonError,
        atomic::{AtomicBool, AtomicU64, Ordering::Relaxed},
    },
    thread::{self, Thread},
    time::{Duration, Instant},
};

use super::metrics::thread_index;

/// After a failed or refused write, how long the writer waits.
const RETRY_AFTER: Duration = Duration::from_millis(10);

/// How one [`Lossy`] buffers.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Buffering {
    /// Threads that write at the same time; more share buffers, which costs time.
    pub(crate) threads: usize,
    /// Bytes per buffer.
    pub(crate) bytes_max: usize,
    /// How long a line may wait for others, so that they share a write. A buffer that is half full does not wait.
    pub(crate) delay: Duration,
}

/// The way in. When the last one is dropped the writer writes what there is and ends; nobody waits for that, other than
/// in [`Self::flush`].
#[derive(Clone, Debug)]
pub(crate) struct Lossy(Arc<Open>);

#[derive(Debug)]
struct Open(Arc<Shared>);

impl Drop for Open {
    fn drop(&mut self) {
        self.0.is_closed.store(true, Relaxed);
        self.0.wake_writer();
    }
}

#[derive(Debug)]
struct Shared {
    buffers: Box<[Slot]>,
    buffering: Buffering,
    /// Whether there is something to write.
    pending: AtomicBool,
    is_closed: AtomicBool,
    writer: OnceLock<Thread>,
    written: AtomicU64,
    dropped: AtomicU64,
    flush: Mutex<Flush>,
    flushed: Condvar,
}

/// Aligned so that no two threads share a cache line.
#[derive(Debug, Default)]
#[repr(align(128))]
struct Slot(Mutex<Buffer>);

#[derive(Debug, Default)]
struct Buffer {
    text: Vec<u8>,
    lines: u64,
}

/// See [`Lossy::ask_for_flush`].
#[derive(Clone, Copy, Debug)]
pub(crate) struct AskedFlush(u64);

#[derive(Debug, Default)]
struct Flush {
    asked: u64,
    done: u64,
}

impl Lossy {
    /// Starts the thread `name` that writes to `file`. `on_error` is told of each write that failed.
    ///
    /// # Errors
    /// When there is no thread to be had.
    pub(crate) fn start(
        name: &str,
        file: impl Write + Send + 'static,
        buffering: Buffering,
        on_error: impl Fn(&io::Error) + Send + 'static,
    ) -> io::Result<Self> {
        let shared = Arc::new(Shared {
            // A power of two, so that a thread finds its buffer by a mask and not by a division.
            buffers: (0..buffering.threads.next_power_of_two()).map(|_| Slot::default()).collect(),
            buffering,
            pending: AtomicBool::new(false),
            is_closed: AtomicBool::new(false),
            writer: OnceLock::new(),
            written: AtomicU64::new(0),
            dropped: AtomicU64::new(0),
            flush: Mutex::default(),
            flushed: Condvar::new(),
        });
        let theirs = Arc::clone(&shared);
        let writer = Writer { file, on_error, is_torn: false };
        let thread = thread::Builder::new().name(name.to_owned()).spawn(move || theirs.run(writer))?;
        // Nothing can have been pushed yet; should the thread sleep already, the first line wakes it.
        shared.writer.get_or_init(|| thread.thread().clone());
        Ok(Self(Arc::new(Open(shared))))
    }

    /// Takes one line, with its one line feed at its end, or drops it where there is no room. Never waits for a file.
    pub(crate) fn push(&self, line: &[u8]) {
        let shared = &*self.0.0;
        let buffer = &shared.buffers[thread_index() & (shared.buffers.len() - 1)].0;
        let mut buffer = lock(buffer);
        let bytes_max = shared.buffering.bytes_max;
        let (before, after) = (buffer.text.len(), buffer.text.len() + line.len());
        if after > bytes_max {
            drop(buffer);
            shared.dropped.fetch_add(1, Relaxed);
            return;
        }
        buffer.text.extend_from_slice(line);
        buffer.lines += 1;
        drop(buffer);
        // Written only when it changes: the line of the cache stays with all threads meanwhile.
        let is_first = !shared.pending.load(Relaxed) && !shared.pending.swap(true, Relaxed);
        let is_half_full = before < bytes_max / 2 && after >= bytes_max / 2;
        if is_first || is_half_full {
            shared.wake_writer();
        }
    }

    /// Asks for all that has been pushed to be written at once.
    pub(crate) fn ask_for_flush(&self) -> AskedFlush {
        let mut flush = lock(&self.0.0.flush);
        flush.asked += 1;
        self.0.0.wake_writer();
        AskedFlush(flush.asked)
    }

    /// Whether it has been, or has been lost.
    pub(crate) fn is_flushed(&self, AskedFlush(asked): AskedFlush) -> bool {
        lock(&self.0.0.flush).done >= asked
    }

    /// Waits until it has been, up to `timeout`; returns whether it was. For threads that may wait.
    pub(crate) fn flush(&self, timeout: Duration) -> bool {
        let shared = &*self.0.0;
        let deadline = Instant::now() + timeout;
        let AskedFlush(asked) = self.ask_for_flush();
        let mut flush = lock(&shared.flush);
        while flush.done < asked {
            let Some(left) = deadline.checked_duration_since(Instant::now()) else { return false };
            flush = shared.flushed.wait_timeout(flush, left).unwrap_or_else(PoisonError::into_inner).0;
        }
        true
    }

    /// Lines that have been written.
    pub(crate) fn written(&self) -> u64 {
        self.0.0.written.load(Relaxed)
    }

    /// Lines that have been lost: the buffer was full, or the write failed.
    pub(crate) fn dropped(&self) -> u64 {
        self.0.0.dropped.load(Relaxed)
    }
}

impl Shared {
    fn wake_writer(&self) {
        if let Some(writer) = self.writer.get() {
            writer.unpark();
        }
    }

    fn run(&self, mut writer: Writer<impl Write, impl Fn(&io::Error)>) {
        let mut taken = Buffer::default();
        loop {
            let asked = self.wait();
            let is_last = self.is_closed.load(Relaxed);
            // Before the buffers are looked at: a line that comes later sets it again.
            self.pending.store(false, Relaxed);
            for Slot(buffer) in &self.buffers {
                std::mem::swap(&mut *lock(buffer), &mut taken);
                // A line may have line feeds of its own (a backtrace), and is still one.
                let lost = writer.write(&taken.text).min(taken.lines);
                self.written.fetch_add(taken.lines - lost, Relaxed);
                self.dropped.fetch_add(lost, Relaxed);
                taken.text.clear();
                taken.lines = 0;
            }
            lock(&self.flush).done = asked;
            self.flushed.notify_all();
            if is_last {
                return;
            }
        }
    }

    /// Waits for something to write, and then for more of it; returns the flushes that this write answers.
    fn wait(&self) -> u64 {
        let asked = || {
            let flush = lock(&self.flush);
            (flush.asked > flush.done).then_some(flush.asked)
        };
        loop {
            if let Some(asked) = asked() {
                return asked;
            }
            if self.is_closed.load(Relaxed) {
                return lock(&self.flush).done;
            }
            if self.pending.load(Relaxed) {
                if !self.buffering.delay.is_zero() {
                    thread::park_timeout(self.buffering.delay);
                }
                return asked().unwrap_or_else(|| lock(&self.flush).done);
            }
            thread::park();
        }
    }
}

/// What is behind these locks is whole at any time.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

struct Writer<W, E> {
    file: W,
    on_error: E,
    /// The last write ended in the middle of a line.
    is_torn: bool,
}

impl<W: Write, E: Fn(&io::Error)> Writer<W, E> {
    /// Writes `text`; returns how many of its lines were lost.
    fn write(&mut self, text: &[u8]) -> u64 {
        let mut rest = text;
        if text.is_empty() {
            return 0;
        }
        match self.end_torn_line().and_then(|()| self.write_all(&mut rest)) {
            Ok(()) => 0,
            Err(error) => {
                let written = &text[..text.len() - rest.len()];
                self.is_torn |= written.last().is_some_and(|byte| *byte != b'\n');
                (self.on_error)(&error);
                lines(rest)
            }
        }
    }

    fn end_torn_line(&mut self) -> io::Result<()> {
        if self.is_torn {
            self.write_all(&mut b"\n".as_slice())?;
            self.is_torn = false;
        }
        Ok(())
    }

    /// Moves `rest` on as far as it is written.
    fn write_all(&mut self, rest: &mut &[u8]) -> io::Result<()> {
        while !rest.is_empty() {
            match self.file.write(rest) {
                Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
                Ok(written) => *rest = &rest[written..],
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                // Somebody has made the descriptor that we share with him non-blocking.
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => thread::sleep(RETRY_AFTER),
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }
}

#[expect(clippy::naive_bytecount, reason = "only after a write that failed")]
fn lines(text: &[u8]) -> u64 {
    text.iter().filter(|byte| **byte == b'\n').count() as u64
}

/// A descriptor of our own for a standard stream: std's handle has a lock that a stalled write would hold for ever.
pub(crate) fn own(stream: impl std::os::fd::AsFd) -> io::Result<File> {
    Ok(stream.as_fd().try_clone_to_owned()?.into())
}

/// Opens a file that is appended to, and made where it is missing.
pub(crate) fn append_to(path: &Path) -> io::Result<File> {
    File::options().append(true).create(true).open(path)
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc::{Receiver, SyncSender, sync_channel};

    use super::*;

    const PATIENCE: Duration = Duration::from_secs(20);
    const SMALL: Buffering = Buffering { threads: 2, bytes_max: 100, delay: Duration::ZERO };

    /// A file whose writes end as the test says, each when the test says so.
    struct Scripted {
        orders: Receiver<io::Result<usize>>,
        seen: SyncSender<Vec<u8>>,
    }

    impl Write for Scripted {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            let taken = self.orders.recv().unwrap_or(Ok(usize::MAX))?.min(bytes.len());
            self.seen.send(bytes[..taken].to_vec()).unwrap();
            Ok(taken)
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    fn scripted() -> (Lossy, SyncSender<io::Result<usize>>, Receiver<Vec<u8>>) {
        let (order, orders) = sync_channel(100);
        let (seen, output) = sync_channel(1000);
        (Lossy::start("lossy", Scripted { orders, seen }, SMALL, |_| {}).unwrap(), order, output)
    }

    fn written(output: &Receiver<Vec<u8>>) -> String {
        String::from_utf8(output.try_iter().flatten().collect()).unwrap()
    }

    #[test]
    fn lines_arrive_whole_in_the_order_of_their_thread_and_are_counted() {
        let (lossy, order, output) = scripted();
        drop(order);
        let mut expected = String::new();
        for i in 0..50 {
            let line = format!("line {i}\n");
            lossy.push(line.as_bytes());
            expected += &line;
            assert!(i % 5 != 4 || lossy.flush(PATIENCE));
        }
        assert_eq!(written(&output), expected);
        assert_eq!((lossy.written(), lossy.dropped()), (50, 0));
    }

    #[test]
    fn what_was_pushed_before_the_end_is_written_and_the_writer_ends() {
        let (lossy, order, output) = scripted();
        drop(order);
        let shared = Arc::downgrade(&lossy.0.0);
        lossy.push(b"last\n");
        drop(lossy);
        // The writer's end of this channel goes with its thread.
        assert_eq!(output.iter().flatten().collect::<Vec<u8>>(), b"last\n");
        assert!(shared.upgrade().is_none_or(|shared| shared.written.load(Relaxed) == 1));
    }

    #[test]
    fn a_reader_that_has_stopped_costs_lines_and_not_time() {
        let (lossy, order, output) = scripted();
        lossy.push(b"first\n");
        let began = Instant::now();
        let mut pushed = 1;
        while lossy.dropped() < 1000 {
            lossy.push(b"another line that finds no room\n");
            pushed += 1;
            assert!(began.elapsed() < PATIENCE);
        }
        assert!(!lossy.flush(Duration::from_millis(10)), "nothing moves, and the flush does not wait longer");
        drop(order);
        assert!(lossy.flush(PATIENCE));
        assert_eq!(lossy.written() + lossy.dropped(), pushed);
        assert_eq!(lines(written(&output).as_bytes()), lossy.written());
    }

    #[test]
    fn a_failed_write_loses_its_lines_and_does_not_join_what_comes_later() {
        let full = || Err(io::ErrorKind::StorageFull.into());
        let (order, orders) = sync_channel(100);
        let (seen, output) = sync_channel(100);
        let mut writer = Writer { file: Scripted { orders, seen }, on_error: |_: &_| {}, is_torn: false };
        order.send(Ok("whole\nbroken".len())).unwrap();
        order.send(full()).unwrap();
        assert_eq!(writer.write(b"whole\nbroken in the middle\nlost\n"), 2);
        order.send(full()).unwrap();
        assert_eq!(writer.write(b"lost, too\n"), 1);
        drop(order);
        assert_eq!(writer.write(b"next\n"), 0);
        assert_eq!(written(&output), "whole\nbroken\nnext\n");
    }
}
