//! A discovery that says what a test tells it, and services that do what a test tells them.

use std::{
    collections::HashSet,
    fmt,
    future::Future,
    pin::Pin,
    sync::{
        Arc, Mutex, MutexGuard, Weak,
        atomic::{AtomicUsize, Ordering::SeqCst},
    },
    task::{Context, Poll, Waker},
    time::Duration,
};

use futures_util::Stream;
use tokio::sync::{Semaphore, broadcast, mpsc};
use tower::{Service, ServiceExt, discover::Change};
use tower_roster::{
    balance::{
        Balance, BalanceBuilder, BalanceError, BalanceEvent, BalanceHandle, BalanceLayer,
        EndpointInfo, EndpointState,
        policy::{Policy, RoundRobin},
    },
    instance::Key,
};

pub(crate) type Balanced<P = RoundRobin> = Balance<Mock, P>;

pub(crate) fn key(id: &str) -> Key {
    Key::new(id, "")
}

/// Lets every task run until it waits for something. Takes a millisecond of the paused clock.
pub(crate) async fn settle() {
    tokio::time::sleep(Duration::from_millis(1)).await;
}

/// Polls a future once.
pub(crate) async fn poll<F: Future>(future: &mut Pin<Box<F>>) -> Poll<F::Output> {
    std::future::poll_fn(|cx| Poll::Ready(future.as_mut().poll(cx))).await
}

/// Steers a service from outside. The service itself lives in the balancer.
pub(crate) struct Control {
    pub(crate) name: String,
    ready: Mutex<Ready>,
    answer: Mutex<Answer>,
    wakers: Mutex<Vec<Waker>>,
    /// Requests that wait in `Answer::Holds`.
    gate: Semaphore,
    /// Numbers of requests in `Answer::HoldsEach` that may go on.
    let_go: Mutex<HashSet<u32>>,
    pub(crate) polls: AtomicUsize,
    pub(crate) calls: AtomicUsize,
    /// Futures of requests that exist.
    pub(crate) open: AtomicUsize,
    life: Mutex<Weak<()>>,
}

/// What a service does in `poll_ready`.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Ready {
    Yes,
    Fails,
    Waits,
    Panics,
}

/// What a service does with a request.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Answer {
    Name,
    Fails,
    Holds,
    /// Until the request is let go by its number; nothing wakes whoever waits.
    HoldsEach,
    PanicsInCall,
    PanicsInPoll,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex
        .lock()
        .unwrap_or_else(|poisoned| poisoned.into_inner())
}

impl Control {
    pub(crate) fn new(name: &str) -> Arc<Self> {
        Arc::new(Self {
            name: name.into(),
            ready: Mutex::new(Ready::Yes),
            answer: Mutex::new(Answer::Name),
            wakers: Mutex::default(),
            gate: Semaphore::new(0),
            let_go: Mutex::default(),
            polls: AtomicUsize::new(0),
            calls: AtomicUsize::new(0),
            open: AtomicUsize::new(0),
            life: Mutex::default(),
        })
    }

    /// A new service that this steers.
    pub(crate) fn service(self: &Arc<Self>) -> Mock {
        let life = lock(&self.life).upgrade().unwrap_or_default();
        *lock(&self.life) = Arc::downgrade(&life);
        Mock {
            control: Arc::clone(self),
            _life: life,
        }
    }

    pub(crate) fn ready(&self, ready: Ready) {
        *lock(&self.ready) = ready;
        lock(&self.wakers).drain(..).for_each(Waker::wake);
    }

    pub(crate) fn answer(&self, answer: Answer) {
        *lock(&self.answer) = answer;
    }

    /// Lets so many requests that are held go on.
    pub(crate) fn release(&self, requests: usize) {
        self.gate.add_permits(requests);
    }

    pub(crate) fn let_go(&self, number: u32) {
        lock(&self.let_go).insert(number);
    }

    pub(crate) fn calls(&self) -> usize {
        self.calls.load(SeqCst)
    }

    pub(crate) fn polls(&self) -> usize {
        self.polls.load(SeqCst)
    }

    pub(crate) fn open(&self) -> usize {
        self.open.load(SeqCst)
    }

    /// Whether any copy of the service exists.
    pub(crate) fn lives(&self) -> bool {
        lock(&self.life).strong_count() > 0
    }
}

/// The service of an endpoint.
#[derive(Clone)]
pub(crate) struct Mock {
    control: Arc<Control>,
    _life: Arc<()>,
}

#[derive(Debug)]
pub(crate) struct Failed(pub(crate) &'static str);

impl fmt::Display for Failed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.0)
    }
}

impl std::error::Error for Failed {}

impl Service<u32> for Mock {
    type Response = String;
    type Error = Failed;
    type Future = Reply;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Failed>> {
        self.control.polls.fetch_add(1, SeqCst);
        // Copied out, so that the panic poisons nothing.
        let ready = *lock(&self.control.ready);
        match ready {
            Ready::Yes => Poll::Ready(Ok(())),
            Ready::Fails => Poll::Ready(Err(Failed("not ready"))),
            Ready::Waits => {
                lock(&self.control.wakers).push(cx.waker().clone());
                Poll::Pending
            }
            Ready::Panics => panic!("a poll_ready that panics"),
        }
    }

    fn call(&mut self, number: u32) -> Reply {
        self.control.calls.fetch_add(1, SeqCst);
        let answer = *lock(&self.control.answer);
        assert!(answer != Answer::PanicsInCall, "a call that panics");
        self.control.open.fetch_add(1, SeqCst);
        let open = Open(Arc::clone(&self.control));
        Reply(Box::pin(async move {
            let control = &open.0;
            match answer {
                Answer::Fails => return Err(Failed("refused")),
                Answer::Holds => control.gate.acquire().await.unwrap().forget(),
                Answer::HoldsEach => {
                    let may_go = || lock(&control.let_go).contains(&number);
                    std::future::poll_fn(|_| {
                        if may_go() {
                            Poll::Ready(())
                        } else {
                            Poll::Pending
                        }
                    })
                    .await;
                }
                Answer::PanicsInPoll => panic!("a future that panics"),
                Answer::Name | Answer::PanicsInCall => {}
            }
            Ok(control.name.clone())
        }))
    }
}

struct Open(Arc<Control>);

impl Drop for Open {
    fn drop(&mut self) {
        self.0.open.fetch_sub(1, SeqCst);
    }
}

pub(crate) struct Reply(Pin<Box<dyn Future<Output = Result<String, Failed>> + Send>>);

impl Future for Reply {
    type Output = Result<String, Failed>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        self.0.as_mut().poll(cx)
    }
}

/// Says what a [`Script`] yields.
pub(crate) struct Feed<T = Mock> {
    words: mpsc::UnboundedSender<Word<T>>,
    life: Weak<()>,
    asked: Arc<AtomicUsize>,
}

pub(crate) enum Word<T> {
    Change(Change<Key, T>),
    Error(&'static str),
    End,
    Panic,
}

/// A discovery.
pub(crate) struct Script<T = Mock> {
    words: mpsc::UnboundedReceiver<Word<T>>,
    _life: Arc<()>,
    asked: Arc<AtomicUsize>,
}

pub(crate) fn script<T>() -> (Feed<T>, Script<T>) {
    let (sender, words) = mpsc::unbounded_channel();
    let (life, asked) = (Arc::new(()), Arc::new(AtomicUsize::new(0)));
    let feed = Feed {
        words: sender,
        life: Arc::downgrade(&life),
        asked: Arc::clone(&asked),
    };
    let script = Script {
        words,
        _life: life,
        asked,
    };
    (feed, script)
}

impl<T> Stream for Script<T> {
    type Item = Result<Change<Key, T>, &'static str>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        self.asked.fetch_add(1, SeqCst);
        match self.words.poll_recv(cx) {
            Poll::Pending => Poll::Pending,
            Poll::Ready(Some(Word::Change(change))) => Poll::Ready(Some(Ok(change))),
            Poll::Ready(Some(Word::Error(error))) => Poll::Ready(Some(Err(error))),
            Poll::Ready(Some(Word::Panic)) => panic!("a discovery that panics"),
            Poll::Ready(Some(Word::End) | None) => Poll::Ready(None),
        }
    }
}

impl<T> Feed<T> {
    pub(crate) fn say(&self, word: Word<T>) {
        // The balancer may be gone.
        let _ = self.words.send(word);
    }

    /// Whether the discovery exists.
    pub(crate) fn lives(&self) -> bool {
        self.life.strong_count() > 0
    }

    /// How often discovery was polled.
    pub(crate) fn asked(&self) -> usize {
        self.asked.load(SeqCst)
    }

    pub(crate) fn remove(&self, id: &str) {
        self.say(Word::Change(Change::Remove(key(id))));
    }

    pub(crate) fn put(&self, id: &str, service: T) {
        self.say(Word::Change(Change::Insert(key(id), service)));
    }
}

impl Feed {
    /// Lists an endpoint with a service of its own.
    pub(crate) fn insert(&self, id: &str) -> Arc<Control> {
        let control = Control::new(id);
        self.put(id, control.service());
        control
    }
}

/// A balancer over a script.
pub(crate) struct Rig<P: Policy = RoundRobin> {
    pub(crate) feed: Feed,
    pub(crate) balance: Balanced<P>,
    pub(crate) handle: BalanceHandle,
}

impl Rig {
    pub(crate) fn new() -> Self {
        Self::with(layer())
    }
}

/// In turn, from an endpoint that the seed decides.
pub(crate) fn layer() -> BalanceBuilder<RoundRobin> {
    BalanceLayer::builder().policy(RoundRobin::new()).seed(1)
}

impl<P: Policy> Rig<P> {
    pub(crate) fn with(layer: BalanceBuilder<P>) -> Self {
        let (feed, script) = script();
        let balance = layer.build().unwrap().balance_plain(script);
        Self {
            feed,
            handle: balance.handle(),
            balance,
        }
    }

    /// Lists endpoints and waits until they are there.
    pub(crate) async fn list<const N: usize>(&self, ids: [&str; N]) -> [Arc<Control>; N] {
        let controls = ids.map(|id| self.feed.insert(id));
        settle().await;
        controls
    }

    /// Sends a request through a clone of its own.
    pub(crate) async fn call(&self) -> Result<String, BalanceError> {
        self.balance.clone().oneshot(0).await
    }

    /// Sends so many requests; how many of them each of `ids` answered.
    pub(crate) async fn spread<const N: usize>(
        &self,
        requests: usize,
        ids: [&str; N],
    ) -> [usize; N] {
        let mut counts = [0; N];
        for _ in 0..requests {
            let name = self.call().await.unwrap();
            let id = ids.iter().position(|id| *id == name);
            counts[id.unwrap_or_else(|| panic!("{name} must not be picked"))] += 1;
        }
        counts
    }

    /// Sends requests until the endpoint is ejected, which must be soon.
    pub(crate) async fn call_until_ejected(&self, id: &str) {
        for _ in 0..1_000 {
            if self.info(id).await.state == EndpointState::Ejected {
                return;
            }
            let _ = self.call().await;
        }
        panic!("{id} is not ejected");
    }

    /// Starts a request and lets it get as far as it can.
    pub(crate) async fn start(&self) -> tokio::task::JoinHandle<Result<String, BalanceError>> {
        let request = tokio::spawn(self.balance.clone().oneshot(0));
        settle().await;
        request
    }

    pub(crate) async fn info(&self, id: &str) -> EndpointInfo {
        let all = self.handle.endpoints().await.unwrap();
        all.into_iter()
            .find(|info| info.key == key(id))
            .unwrap_or_else(|| panic!("{id} must be listed"))
    }

    /// Requests in flight, over all that are listed.
    pub(crate) async fn in_flight(&self) -> usize {
        let all = self.handle.endpoints().await.unwrap();
        all.iter().map(|info| info.in_flight).sum()
    }
}

/// The events that are there, as text.
pub(crate) fn events(receiver: &mut broadcast::Receiver<BalanceEvent>) -> Vec<String> {
    let mut events = Vec::new();
    while let Ok(event) = receiver.try_recv() {
        events.push(match event {
            BalanceEvent::Added { key, .. } => format!("+{key}"),
            BalanceEvent::Replaced { key, .. } => format!("~{key}"),
            BalanceEvent::Removed { key, in_flight, .. } => format!("-{key} {in_flight}"),
            BalanceEvent::Drained { key, in_flight, .. } => format!("drained {key} {in_flight}"),
            BalanceEvent::Weighed { key, weight, .. } => format!("{key} weighs {weight}"),
            BalanceEvent::Ejected { key, .. } => format!("ejected {key}"),
            BalanceEvent::Restored { key, .. } => format!("restored {key}"),
            BalanceEvent::DiscoveryFailed { error, .. } => format!("failed: {error}"),
            BalanceEvent::DiscoveryEnded => "ended".into(),
            BalanceEvent::Registry { status, .. } => match status.error {
                Some(error) => format!("{} {:?}", status.state, error.kind()),
                None => status.state.to_string(),
            },
            other => format!("{other:?}"),
        });
    }
    events
}
