//! Who looks at the registry, and what came of it: one entry per handler that was called, one look at it at a time.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::time::{Duration, Instant};

use openlambda_api::HandlerName;
use openlambda_api::conditions::ConditionReason;
use openlambda_store::{Listed, Store, StoreError};
use parking_lot::Mutex;
use tokio::sync::{mpsc, oneshot};
use tokio::time::MissedTickBehavior;

use super::make::Maker;
use super::{Ask, Look, Serving, View};
use crate::functions::Function;
use crate::pool::Pool;
use crate::revision::Revision;
use crate::trouble::Trouble;

/// What was not there, or failed, a moment ago is not looked for again at each call.
const PAUSE: Duration = Duration::from_secs(1);
/// Names that are remembered as missing.
const MISSING: usize = 4096;

/// A trouble of this worker.
pub fn ours(why: String) -> Look {
    Look::Fails(Trouble::passing(ConditionReason::AgentFailed, format!("the worker could not look: {why}")))
}

/// What the desk's own tasks tell it.
enum News {
    /// What a look at a handler found.
    Looked(HandlerName, Found),
    /// What the registry has.
    Listed(Result<Vec<Listed>, StoreError>),
}

/// What a look found.
enum Found {
    /// A revision that has been tried; it may be the one that serves.
    Revision(Arc<Function>, Arc<Revision>, Serving),
    Missing,
    Trouble(Option<Arc<Function>>, Trouble),
}

/// A handler that is in the registry.
struct Entry {
    function: Arc<Function>,
    /// How its record was listed when it was last looked at; none if that has not been.
    stamp: Option<String>,
    /// Why the last look failed, and when.
    failed: Option<(Instant, Trouble)>,
}

impl Entry {
    fn new(function: Arc<Function>) -> Self {
        Self { function, stamp: None, failed: None }
    }

    /// What calls are told without another look: what will not be over by itself, or has only just failed.
    fn still_fails(&self) -> Option<Trouble> {
        let (at, trouble) = self.failed.as_ref()?;
        (!trouble.passing || at.elapsed() < PAUSE).then(|| trouble.clone())
    }
}

/// Keeps the functions as the registry has them.
pub struct Desk {
    store: Store,
    maker: Arc<Maker>,
    pool: Arc<Pool>,
    view: Arc<Mutex<View>>,
    entries: HashMap<HandlerName, Entry>,
    /// Who waits for the look that is under way.
    under_way: HashMap<HandlerName, Vec<oneshot::Sender<Look>>>,
    /// Handlers that are to be looked at again as soon as the look that is under way is over.
    after: HashMap<HandlerName, Vec<oneshot::Sender<Look>>>,
    missing: HashMap<HandlerName, Instant>,
    news: (mpsc::UnboundedSender<News>, mpsc::UnboundedReceiver<News>),
    listing: bool,
}

impl Desk {
    /// Knows no handler yet.
    pub fn new(store: Store, maker: Maker, pool: Arc<Pool>, view: Arc<Mutex<View>>) -> Self {
        Self {
            store,
            maker: Arc::new(maker),
            pool,
            view,
            entries: HashMap::new(),
            under_way: HashMap::new(),
            after: HashMap::new(),
            missing: HashMap::new(),
            news: mpsc::unbounded_channel(),
            listing: false,
        }
    }

    /// Answers and looks for ever.
    pub async fn work(mut self, mut asked: mpsc::Receiver<Ask>, every: Duration) {
        let mut looks = tokio::time::interval(every);
        looks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                Some(ask) = asked.recv() => self.asked(ask),
                Some(news) = self.news.1.recv() => self.hear(news),
                _ = looks.tick() => self.list(),
            }
        }
    }

    fn asked(&mut self, Ask { handler, anew, answer }: Ask) {
        if anew {
            // What is under way may have read the record before it changed.
            if self.under_way.contains_key(&handler) {
                return self.after.entry(handler).or_default().push(answer);
            }
        } else if self.missing.get(&handler).is_some_and(|at| at.elapsed() < PAUSE) {
            // Nobody need be there any more to hear it.
            let _ = answer.send(Look::Missing);
            return;
        } else if let Some(trouble) = self.entries.get(&handler).and_then(Entry::still_fails) {
            let _ = answer.send(Look::Fails(trouble));
            return;
        }
        self.look(handler, Some(answer));
    }

    /// Begins a look at a handler, or waits for the one that is under way.
    fn look(&mut self, handler: HandlerName, answer: Option<oneshot::Sender<Look>>) {
        if let Some(waiting) = self.under_way.get_mut(&handler) {
            waiting.extend(answer);
            return;
        }
        self.under_way.insert(handler.clone(), answer.into_iter().collect());
        let (store, maker, news) = (self.store.clone(), Arc::clone(&self.maker), self.news.0.clone());
        let known = self.entries.get(&handler).map(|entry| Arc::clone(&entry.function));
        tokio::spawn(async move {
            let found = find(&store, &maker, &handler, known).await;
            // Nobody listens at the worker's end.
            let _ = news.send(News::Looked(handler, found));
        });
    }

    /// Asks what there is: one request, however many handlers there are.
    fn list(&mut self) {
        self.missing.retain(|_, at| at.elapsed() < PAUSE);
        if self.listing || self.entries.is_empty() {
            return;
        }
        self.listing = true;
        let (store, news) = (self.store.clone(), self.news.0.clone());
        tokio::spawn(async move {
            let listed = store.handlers().await;
            let _ = news.send(News::Listed(listed));
        });
    }

    fn hear(&mut self, news: News) {
        match news {
            News::Looked(handler, found) => self.looked(handler, found),
            News::Listed(listed) => {
                self.listing = false;
                match listed {
                    Ok(listed) => self.listed(&listed),
                    Err(error) => self.trouble(Some(error.to_string())),
                }
            }
        }
    }

    /// Says once that the registry is away, and once that it is back.
    fn trouble(&self, trouble: Option<String>) {
        let mut view = self.view.lock();
        match (&view.trouble, &trouble) {
            (None, Some(why)) => tracing::warn!("{why}; what serves goes on to serve"),
            (Some(_), None) => tracing::info!(place = view.place, "the registry is back"),
            _ => {}
        }
        view.trouble = trouble;
    }

    fn listed(&mut self, listed: &[Listed]) {
        self.trouble(None);
        let there: HashSet<_> = listed.iter().map(|one| &one.name).collect();
        let gone = self.entries.keys().filter(|name| !there.contains(name));
        let mut due: Vec<_> = gone.cloned().collect();
        for one in listed {
            let Some(entry) = self.entries.get_mut(&one.name) else { continue };
            let again = entry.failed.as_ref().is_some_and(|(_, trouble)| trouble.passing);
            if again || entry.stamp.as_ref() != Some(&one.stamp) {
                entry.stamp = Some(one.stamp.clone());
                due.push(one.name.clone());
            }
        }
        // Those that are gone too: the record itself decides.
        due.into_iter().for_each(|name| self.look(name, None));
    }

    fn looked(&mut self, handler: HandlerName, found: Found) {
        let look = match found {
            Found::Revision(function, revision, serving) => {
                self.trouble(None);
                self.serve(&handler, function, &revision, serving.clone());
                Look::Serves(serving)
            }
            Found::Missing => {
                self.trouble(None);
                self.remove(&handler);
                Look::Missing
            }
            Found::Trouble(function, trouble) => {
                tracing::warn!(handler = handler.as_str(), %trouble, "not ready");
                if let Some(function) = function {
                    function.fail(trouble.failure());
                    let entry = self.entries.entry(handler.clone());
                    entry.or_insert_with(|| Entry::new(function)).failed =
                        Some((Instant::now(), trouble.clone()));
                }
                Look::Fails(trouble)
            }
        };
        for waiting in self.under_way.remove(&handler).into_iter().flatten() {
            // Who waited may have lost patience.
            let _ = waiting.send(look.clone());
        }
        for waiting in self.after.remove(&handler).into_iter().flatten() {
            self.look(handler.clone(), Some(waiting));
        }
    }

    fn serve(
        &mut self,
        handler: &HandlerName,
        function: Arc<Function>,
        revision: &Arc<Revision>,
        serving: Serving,
    ) {
        if function.serves(revision) {
            function.hope();
        } else {
            let former = function.serving();
            self.maker.functions.install(&function, Arc::clone(revision));
            self.pool.succeed(function.key, former.as_deref(), revision);
        }
        self.missing.remove(handler);
        let entry = self.entries.entry(handler.clone());
        entry.or_insert_with(|| Entry::new(function)).failed = None;
        self.view.lock().serving.insert(handler.as_str().to_owned(), serving);
    }

    fn remove(&mut self, handler: &HandlerName) {
        if let Some(entry) = self.entries.remove(handler) {
            self.maker.functions.remove(&entry.function);
            self.pool.evict(entry.function.key);
            self.view.lock().serving.remove(handler.as_str());
            tracing::info!(handler = handler.as_str(), "removed");
        }
        if self.missing.len() < MISSING {
            self.missing.insert(handler.clone(), Instant::now());
        }
    }
}

/// Reads the record and makes what it says. A handler is known from when it has one.
async fn find(store: &Store, maker: &Maker, handler: &HandlerName, known: Option<Arc<Function>>) -> Found {
    let record = {
        let Ok(_turn) = maker.reads.acquire().await else { return Found::Missing };
        store.record(handler).await
    };
    let is_new = known.as_ref().is_none_or(|function| function.serving().is_none());
    let wanted = match record {
        Ok(record) => record.as_ref().and_then(|record| record.serving()).cloned(),
        // A worker that has just started serves what the one before it did.
        Err(error) => match maker.last(handler).filter(|_| is_new) {
            Some(last) => {
                tracing::warn!(handler = handler.as_str(), %error, revision = last.number, "as it served last");
                Some(last)
            }
            None => return Found::Trouble(known, error.into()),
        },
    };
    let Some(wanted) = &wanted else {
        maker.note(handler, None);
        return Found::Missing;
    };
    let function = known.unwrap_or_else(|| maker.functions.declare(handler, None));
    let serving = Serving { revision: wanted.number, digest: wanted.digest.to_string() };
    match maker.make(&function, wanted).await {
        Ok(revision) => {
            maker.note(handler, Some(wanted));
            Found::Revision(function, revision, serving)
        }
        Err(trouble) => Found::Trouble(Some(function), trouble),
    }
}
