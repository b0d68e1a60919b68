//! The sink of a daemon: events in, lines out, in a thread of its own.
//!
//! Whoever emits an event only pushes it onto a queue. The writer takes the whole queue at once, formats it and
//! writes it with one call per target. A queue that is full makes the emitter wait, at most [`Options::patience`];
//! after that the event is counted as lost, and the count is logged as soon as something can be.

use std::collections::VecDeque;
use std::io;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use jiff::tz::TimeZone;
use yamabiko_envelope::{Event, EventSink, Origin, Severity, Timestamp};

use crate::line::{self, Style};
use crate::{Destination, Header, Host, Target, json};

/// How lines look.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Form {
    /// Postfix's lines.
    #[default]
    Postfix,
    /// One JSON object per line (`log_format = json`); a syslog target has its header before it.
    Json,
}

/// What a [`Logger`] is told.
#[derive(Clone, Debug)]
pub struct Options {
    /// How lines look.
    pub form: Form,
    /// Settings of the text.
    pub style: Style,
    /// Who speaks when the logger itself has something to say.
    pub origin: Origin,
    /// Events that may wait to be written.
    pub capacity: usize,
    /// How long an emitter waits for room.
    pub patience: Duration,
}

impl Options {
    /// The usual ones.
    pub fn new(origin: Origin) -> Self {
        Self {
            form: Form::Postfix,
            style: Style::default(),
            origin,
            capacity: 65_536,
            patience: Duration::from_millis(200),
        }
    }
}

/// Writes events to its targets from a thread of its own. Dropping it writes what is left.
#[derive(Debug)]
pub struct Logger {
    shared: Arc<Shared>,
    writer: Mutex<Option<JoinHandle<()>>>,
}

#[derive(Debug)]
struct Shared {
    state: Mutex<State>,
    /// Signalled when the writer has something to do.
    work: Condvar,
    /// Signalled when the writer has taken the queue, and when it has written it.
    progress: Condvar,
    capacity: usize,
    patience: Duration,
}

#[derive(Debug, Default)]
struct State {
    queue: VecDeque<Event>,
    orders: Vec<Order>,
    /// Events and orders ever queued, and ever done with.
    queued: u64,
    written: u64,
    lost: u64,
    writer_waits: bool,
    /// Somebody waits for what is queued: the writer does not gather any longer.
    hurry: bool,
    stop: bool,
}

/// How long the writer lets events gather before it writes them: one write and one wake-up for many lines. A line is in
/// the file this much later, and a process that is killed takes so much with it.
const GATHER: Duration = Duration::from_millis(2);
/// So many are enough for one write.
const ENOUGH: usize = 512;

#[derive(Debug)]
enum Order {
    Reopen,
    Replace(Vec<Target>),
    Reconfigure(Form, Style),
    Tidy(fn()),
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        // No code that can panic runs under this lock, and the state is valid between any two statements.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn wake_writer(&self, state: &State) {
        if state.writer_waits {
            self.work.notify_one();
        }
    }
}

impl Logger {
    /// Starts the writer. Fails when no thread can be had.
    pub fn start(host: Host, targets: Vec<Target>, options: Options) -> io::Result<Arc<Self>> {
        let shared = Arc::new(Shared {
            state: Mutex::new(State::default()),
            work: Condvar::new(),
            progress: Condvar::new(),
            capacity: options.capacity.max(1),
            patience: options.patience,
        });
        let mut writer = Writer {
            shared: Arc::clone(&shared),
            form: options.form,
            style: options.style,
            origin: options.origin,
            targets: targets.into_iter().map(|target| (target, true)).collect(),
            header: Header::new(host, TimeZone::system()),
            text: String::new(),
            unsaid: 0,
        };
        let thread = std::thread::Builder::new().name("log".into()).spawn(move || writer.run())?;
        Ok(Arc::new(Self { shared, writer: Mutex::new(Some(thread)) }))
    }

    /// Opens files again by their names, once what is queued has been written.
    pub fn reopen(&self) {
        self.order(Order::Reopen);
    }

    /// Writes to other targets from now on; what is queued already still goes to the old ones.
    pub fn replace(&self, targets: Vec<Target>) {
        self.order(Order::Replace(targets));
    }

    /// Changes how lines look from now on.
    pub fn reconfigure(&self, form: Form, style: Style) {
        self.order(Order::Reconfigure(form, style));
    }

    /// Gives back the room that a burst of lines took, and has the writer do `errand` when it has written what is queued. For
    /// whoever sees that the server has come to rest.
    pub fn tidy(&self, errand: fn()) {
        self.order(Order::Tidy(errand));
    }

    fn order(&self, order: Order) {
        let mut state = self.shared.lock();
        state.orders.push(order);
        state.queued += 1;
        state.hurry = true;
        self.shared.work.notify_one();
    }

    /// Waits until everything emitted or ordered before has been done, at most `patience`. False when that was not enough.
    pub fn flush(&self, patience: Duration) -> bool {
        let deadline = Instant::now() + patience;
        let mut state = self.shared.lock();
        let goal = state.queued;
        state.hurry = true;
        self.shared.work.notify_one();
        while state.written < goal {
            let Some(left) = deadline.checked_duration_since(Instant::now()) else { return false };
            state = self.shared.progress.wait_timeout(state, left).unwrap_or_else(PoisonError::into_inner).0;
        }
        true
    }
}

impl EventSink for Logger {
    fn emit(&self, event: Event) {
        let shared = &*self.shared;
        let mut state = shared.lock();
        if state.queue.len() >= shared.capacity {
            let deadline = Instant::now() + shared.patience;
            while state.queue.len() >= shared.capacity {
                state.hurry = true;
                shared.work.notify_one();
                let Some(left) = deadline.checked_duration_since(Instant::now()) else {
                    state.lost += 1;
                    return;
                };
                state = shared.progress.wait_timeout(state, left).unwrap_or_else(PoisonError::into_inner).0;
            }
        }
        state.queue.push_back(event);
        state.queued += 1;
        shared.wake_writer(&state);
    }
}

impl Drop for Logger {
    fn drop(&mut self) {
        {
            let mut state = self.shared.lock();
            state.stop = true;
            self.shared.work.notify_one();
        }
        let writer = self.writer.get_mut().unwrap_or_else(PoisonError::into_inner).take();
        if let Some(writer) = writer {
            let _ = writer.join();
        }
    }
}

/// What the writer finds when it looks.
struct Batch {
    events: VecDeque<Event>,
    orders: Vec<Order>,
    lost: u64,
    stop: bool,
}

struct Writer {
    shared: Arc<Shared>,
    form: Form,
    style: Style,
    origin: Origin,
    /// Each with whether its last write went well.
    targets: Vec<(Target, bool)>,
    header: Header,
    text: String,
    /// Lines lost and not yet told.
    unsaid: u64,
}

impl Writer {
    fn run(&mut self) {
        loop {
            let mut batch = self.take();
            let count = (batch.events.len() + batch.orders.len()) as u64;
            self.unsaid += batch.lost;
            if !self.write(batch.events.make_contiguous()) {
                self.unsaid += batch.events.len() as u64;
            }
            for order in batch.orders {
                self.obey(order);
            }
            // While nothing can be written this waits for the next event, so that a broken log costs no time.
            if self.unsaid > 0 {
                let text = format!("{} log lines lost: the log could not be written, or not fast enough", self.unsaid);
                if self.say(text) {
                    self.unsaid = 0;
                }
            }
            {
                let mut state = self.shared.lock();
                state.written += count;
                // The emptied buffer goes back, so that a steady stream of lines allocates nothing.
                if state.queue.is_empty() && state.queue.capacity() < batch.events.capacity() {
                    batch.events.clear();
                    if batch.events.capacity() <= 4096 {
                        std::mem::swap(&mut state.queue, &mut batch.events);
                    }
                }
                self.shared.progress.notify_all();
            }
            if batch.stop {
                return;
            }
        }
    }

    fn take(&self) -> Batch {
        let mut state = self.shared.lock();
        while state.queue.is_empty() && state.orders.is_empty() && state.lost == 0 && !state.stop {
            state.writer_waits = true;
            state = self.shared.work.wait(state).unwrap_or_else(PoisonError::into_inner);
            state.writer_waits = false;
        }
        let gathering =
            |state: &mut State| !state.hurry && !state.stop && state.orders.is_empty() && state.queue.len() < ENOUGH;
        if gathering(&mut state) {
            // Nobody wakes us for an event now, so this is a nap; only a flush, an order or the end cuts it short.
            let napped = self.shared.work.wait_timeout_while(state, GATHER, gathering);
            state = napped.unwrap_or_else(PoisonError::into_inner).0;
        }
        state.hurry = false;
        let batch = Batch {
            events: std::mem::take(&mut state.queue),
            orders: std::mem::take(&mut state.orders),
            lost: std::mem::take(&mut state.lost),
            stop: state.stop,
        };
        self.shared.progress.notify_all();
        batch
    }

    fn obey(&mut self, order: Order) {
        match order {
            Order::Reopen => {
                let failed: Vec<String> =
                    self.targets.iter_mut().filter_map(|(t, _)| t.reopen().err().map(|e| e.to_string())).collect();
                for text in failed {
                    self.say(text);
                }
            }
            Order::Replace(targets) => self.targets = targets.into_iter().map(|target| (target, true)).collect(),
            Order::Reconfigure(form, style) => (self.form, self.style) = (form, style),
            Order::Tidy(errand) => {
                self.text = String::new();
                let mut state = self.shared.lock();
                if state.queue.is_empty() {
                    state.queue = VecDeque::new();
                }
                drop(state);
                errand();
            }
        }
    }

    /// A warning of the logger's own.
    fn say(&mut self, text: String) -> bool {
        let event = Event::text(Timestamp::now(), self.origin.clone(), Severity::Warning, text);
        self.write(std::slice::from_ref(&event))
    }

    /// False when a target could not take them.
    fn write(&mut self, events: &[Event]) -> bool {
        if events.is_empty() {
            return true;
        }
        let mut failed = None;
        let mut last_prefix = None;
        for (target, well) in &mut self.targets {
            let prefix = target.prefix();
            if last_prefix != Some(prefix) {
                self.text.clear();
                for event in events {
                    push_line(&mut self.text, &mut self.header, event, self.form, target, self.style);
                }
                last_prefix = Some(prefix);
            }
            match target.write(&self.text) {
                Ok(()) => *well = true,
                Err(error) => {
                    // Once per outage, to whoever started us: there is no other place left.
                    if std::mem::replace(well, false) {
                        failed = Some(format!("cannot write the mail log to {:?}: {error}", target.destination()));
                    }
                }
            }
        }
        if self.text.capacity() > 1 << 20 {
            self.text = String::new();
        }
        if let Some(text) = failed {
            eprintln!("{}: warning: {text}", self.origin.program);
        }
        self.targets.iter().all(|(_, well)| *well)
    }
}

fn push_line(out: &mut String, header: &mut Header, event: &Event, form: Form, target: &Target, style: Style) {
    style.apply();
    let syslog = matches!(target.destination(), Destination::Syslog { .. });
    if form == Form::Postfix || syslog {
        header.push(out, target.prefix(), event.at, &event.origin, line::severity_number(event));
    }
    match form {
        Form::Postfix => line::push_text(out, event, style),
        Form::Json => json::push_object(out, event, header),
    }
    out.push('\n');
}

/// Writes a few events at once, for commands (`postlog`, `postsuper`) that have no daemon behind them: opens the
/// destination, writes, closes. Errors name the place.
pub fn append(destination: Destination, host: Host, form: Form, style: Style, events: &[Event]) -> io::Result<()> {
    let mut target = Target::open(destination)?;
    let mut header = Header::new(host, TimeZone::system());
    let mut text = String::new();
    for event in events {
        push_line(&mut text, &mut header, event, form, &target, style);
    }
    target.write(&text)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;
    use std::path::Path;

    fn origin() -> Origin {
        Origin::new(&Arc::from("postfix"), "master")
    }

    fn event(text: &str) -> Event {
        Event::text(Timestamp::from_seconds(1), origin(), Severity::Info, text)
    }

    fn file(path: &Path) -> Target {
        Target::open(Destination::File(path.into())).unwrap()
    }

    fn texts(path: &Path) -> Vec<String> {
        let all = fs::read_to_string(path).unwrap();
        all.lines().map(|l| l.split_once("]: ").map_or(l, |(_, t)| t).to_owned()).collect()
    }

    #[test]
    fn everything_arrives_in_order_from_many_threads() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("log");
        let options = Options { capacity: 16, patience: Duration::from_secs(60), ..Options::new(origin()) };
        let logger = Logger::start(Host::new("mx", 1), vec![file(&path)], options).unwrap();
        std::thread::scope(|scope| {
            for thread in 0..4 {
                let logger = &logger;
                scope.spawn(move || (0..500).for_each(|n| logger.emit(event(&format!("{thread} {n}")))));
            }
        });
        assert!(logger.flush(Duration::from_secs(60)));
        let lines = texts(&path);
        assert_eq!(lines.len(), 2000);
        for thread in 0..4 {
            let start = format!("{thread} ");
            let mine: Vec<_> = lines.iter().filter_map(|l| l.strip_prefix(&start)).collect();
            assert!(mine.iter().enumerate().all(|(n, text)| *text == n.to_string()));
        }
    }

    #[test]
    fn reopen_and_replace_take_effect_in_order() {
        let dir = tempfile::tempdir().unwrap();
        let [first, second] = ["first", "second"].map(|n| dir.path().join(n));
        let logger = Logger::start(Host::new("mx", 1), vec![file(&first)], Options::new(origin())).unwrap();
        logger.emit(event("one"));
        assert!(logger.flush(Duration::from_secs(60)));
        fs::rename(&first, dir.path().join("old")).unwrap();
        logger.reopen();
        logger.emit(event("two"));
        assert!(logger.flush(Duration::from_secs(60)));
        logger.replace(vec![file(&second)]);
        drop(logger);
        assert_eq!(texts(&dir.path().join("old"))[0], "one");
        assert!(second.exists());
    }

    #[test]
    fn the_writer_does_an_errand_after_what_is_queued() {
        static DONE: Mutex<Option<String>> = Mutex::new(None);
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("log");
        let logger = Logger::start(Host::new("mx", 1), vec![file(&path)], Options::new(origin())).unwrap();
        (0..1000).for_each(|n| logger.emit(event(&n.to_string())));
        logger.tidy(|| *DONE.lock().unwrap() = std::thread::current().name().map(str::to_owned));
        assert!(logger.flush(Duration::from_secs(60)));
        assert_eq!(DONE.lock().unwrap().as_deref(), Some("log"));
        logger.emit(event("after"));
        drop(logger);
        assert_eq!(texts(&path).len(), 1001);
    }

    #[test]
    fn dropping_writes_what_is_left() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("log");
        let logger = Logger::start(Host::new("mx", 1), vec![file(&path)], Options::new(origin())).unwrap();
        (0..100).for_each(|n| logger.emit(event(&n.to_string())));
        drop(logger);
        assert_eq!(texts(&path).len(), 100);
    }

    #[test]
    fn lost_lines_are_counted_and_said() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("log");
        let broken = Target::from_file(fs::File::open("/dev/null").unwrap(), dir.path().join("no/such")).unwrap();
        let logger = Logger::start(Host::new("mx", 1), vec![broken], Options::new(origin())).unwrap();
        logger.emit(event("one"));
        assert!(logger.flush(Duration::from_secs(60)));
        logger.replace(vec![file(&path)]);
        drop(logger);
        let lines = texts(&path);
        assert!(lines.iter().any(|l| l.contains("log lines lost")), "{lines:?}");
    }

    #[test]
    fn commands_append() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("log");
        for text in ["one", "two"] {
            let to = Destination::File(path.clone());
            append(to, Host::new("mx", 1), Form::Postfix, Style::default(), &[event(text)]).unwrap();
        }
        assert_eq!(texts(&path), ["one", "two"]);
    }
}
