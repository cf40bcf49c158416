//! A backend that does what a test says, step by step, and tells when it was asked.

use std::{
    collections::VecDeque,
    sync::{Arc, Mutex},
    time::Duration,
};

use tokio::time::Instant;
use tower_roster::{
    Instance, RegistryError,
    catalog::{Listing, Rejected},
    error::ErrorKind,
    registry::{Announcement, Answer, Backend, BoxFuture, Lease, Limit, Query, Renewal, Source},
};

#[derive(Clone, Debug)]
pub(super) enum Step {
    List(&'static [&'static str]),
    /// An empty list, and whether the service exists.
    Nothing {
        exists: bool,
    },
    /// An empty list in doubt.
    Doubtful,
    /// No instance, and this number of records that cannot be used.
    Unusable(usize),
    Fail(ErrorKind),
    /// A list that could not be confirmed.
    Unconfirmed(&'static [&'static str]),
    Resync,
    Unchanged,
    Hang,
    Panic,
    /// Panics before there is a future.
    PanicAtOnce,
    After(Duration, &'static Step),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Asked {
    Read,
    Next,
    Register,
    Renew,
    Deregister,
}

/// Plays its steps, and the last for ever.
#[derive(Clone, Debug)]
pub(super) struct Scripted {
    sources: Arc<Mutex<Vec<VecDeque<Step>>>>,
    lease: Arc<Mutex<VecDeque<Step>>>,
    asked: Arc<Mutex<Vec<(Asked, Instant)>>>,
}

fn play(steps: &mut VecDeque<Step>) -> Step {
    match steps.len() {
        0 => Step::Hang,
        1 => steps[0].clone(),
        _ => steps.pop_front().unwrap(),
    }
}

impl Scripted {
    pub(super) fn new(steps: impl IntoIterator<Item = Step>) -> Self {
        Self::several([steps.into_iter().collect::<Vec<_>>()])
    }

    pub(super) fn several(sources: impl IntoIterator<Item = Vec<Step>>) -> Self {
        let sources = sources.into_iter().map(VecDeque::from).collect();
        Self {
            sources: Arc::new(Mutex::new(sources)),
            lease: Arc::default(),
            asked: Arc::default(),
        }
    }

    /// What leases do, whatever they are asked for.
    pub(super) fn lease(self, steps: impl IntoIterator<Item = Step>) -> Self {
        *self.lease.lock().unwrap() = steps.into_iter().collect();
        self
    }

    pub(super) fn asked(&self) -> Vec<(Asked, Instant)> {
        self.asked.lock().unwrap().clone()
    }

    fn note(&self, asked: Asked) {
        self.asked.lock().unwrap().push((asked, Instant::now()));
    }
}

fn error(kind: ErrorKind) -> RegistryError {
    RegistryError::new(kind, "as the script says")
}

pub(super) fn listing(ids: &[&str], exists: bool) -> Answer {
    let instances = ids.iter().map(|id| {
        let port = 8_000 + u16::from(*id.as_bytes().last().unwrap_or(&0));
        let address = format!("127.0.0.1:{port}").parse().unwrap();
        Arc::new(Instance::new("web", *id, address))
    });
    Answer::Listing(Listing {
        instances: instances.collect(),
        exists,
        ..Listing::default()
    })
}

async fn perform(mut step: Step) -> Result<Answer, RegistryError> {
    while let Step::After(time, then) = step {
        tokio::time::sleep(time).await;
        step = then.clone();
    }
    match step {
        Step::List(ids) => Ok(listing(ids, true)),
        Step::Nothing { exists } => Ok(listing(&[], exists)),
        Step::Doubtful => Ok(Answer::Listing(Listing {
            doubt: Some("as the script says".to_owned()),
            ..Listing::default()
        })),
        Step::Unusable(records) => Ok(Answer::Listing(Listing {
            exists: true,
            rejected: (0..records)
                .map(|n| Rejected::new(format!("web-{n}"), "no address"))
                .collect(),
            ..Listing::default()
        })),
        Step::Fail(kind) => Err(error(kind)),
        Step::Unconfirmed(ids) => match listing(ids, true) {
            Answer::Listing(listing) => {
                Ok(Answer::Unconfirmed(listing, error(ErrorKind::Unavailable)))
            }
            answer => Ok(answer),
        },
        Step::Resync => Ok(Answer::Resync),
        Step::Unchanged => Ok(Answer::Unchanged),
        Step::Hang | Step::After(..) => std::future::pending().await,
        Step::Panic | Step::PanicAtOnce => panic!("as the script says"),
    }
}

impl Backend for Scripted {
    fn name(&self) -> Arc<str> {
        "scripted".into()
    }

    fn watch(&self, _: &Query) -> Result<Vec<Box<dyn Source>>, RegistryError> {
        let sources = self.sources.lock().unwrap().len();
        Ok((0..sources)
            .map(|at| Box::new(Player(self.clone(), at)) as Box<dyn Source>)
            .collect())
    }

    fn register(&self, announcement: &Announcement) -> Result<Box<dyn Lease>, RegistryError> {
        let asked_to = announcement.instance().metadata.contains_key("panic");
        assert!(!asked_to, "as the announcement says");
        Ok(Box::new(Player(self.clone(), 0)))
    }
}

struct Player(Scripted, usize);

impl Player {
    fn step(&self, asked: Asked) -> BoxFuture<'static, Result<Answer, RegistryError>> {
        self.0.note(asked);
        let step = play(&mut self.0.sources.lock().unwrap()[self.1]);
        assert!(!matches!(step, Step::PanicAtOnce), "as the script says");
        Box::pin(perform(step))
    }

    fn leased(&self, asked: Asked) -> BoxFuture<'static, Result<Answer, RegistryError>> {
        self.0.note(asked);
        Box::pin(perform(play(&mut self.0.lease.lock().unwrap())))
    }
}

impl Source for Player {
    fn read(&mut self) -> BoxFuture<'_, Result<Answer, RegistryError>> {
        self.step(Asked::Read)
    }

    fn next(&mut self) -> BoxFuture<'_, Result<Answer, RegistryError>> {
        self.step(Asked::Next)
    }

    fn limit(&self) -> Limit {
        Limit::new(2, Duration::from_millis(100))
    }
}

impl Lease for Player {
    fn register(&mut self) -> BoxFuture<'_, Result<(), RegistryError>> {
        let step = self.leased(Asked::Register);
        Box::pin(async move { step.await.map(drop) })
    }

    fn renew(&mut self) -> BoxFuture<'_, Result<Renewal, RegistryError>> {
        let step = self.leased(Asked::Renew);
        Box::pin(async move {
            Ok(match step.await? {
                Answer::Resync => Renewal::Lost,
                _ => Renewal::Kept,
            })
        })
    }

    fn deregister(&mut self) -> BoxFuture<'_, Result<(), RegistryError>> {
        let step = self.leased(Asked::Deregister);
        Box::pin(async move { step.await.map(drop) })
    }

    fn renew_every(&self) -> Duration {
        Duration::from_secs(1)
    }
}
