//! Open pages: parts that changed are sent again as server-sent events. A stream token says of which sign-in; what that
//! person sees is asked again whenever people or policies change, before anything more is sent (H-03). Invariants: after a
//! flip no row or event leaves that the new generation does not show; behind the end of a sign-in nothing leaves but that.

use super::{
    Dashboard, Viewer,
    board::{Row, hash},
    pages,
    places::Place,
    sight::Seen,
    standing::AlarmRow,
    views,
};
use crate::{
    error::Result,
    events::{Next, ReaderSpec, Start, View},
    http::{HttpState, problem},
    people::SignedIn,
    sessions::Session,
};
use axum::{
    Json,
    extract::{Query, State},
    response::{
        IntoResponse, Response,
        sse::{Event as Sent, Sse},
    },
};
use prost::Message as _;
use serde::Deserialize;
use serde_json::json;
use std::{
    collections::{HashMap, VecDeque},
    convert::Infallible,
    future::poll_fn,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
    time::Duration,
};
use tidegate_proto::v1::{Event, EventBatch};
use tokio::{
    sync::watch,
    time::{Instant, Interval, sleep_until},
};
use tokio_stream::Stream;

/// How often pages are brought up to date (H-01).
const EVERY: Duration = Duration::from_secs(1);
/// Events of a session that a page shows.
const NEWEST: u64 = 20;

#[derive(Deserialize)]
pub(super) struct Asked {
    token: String,
    #[serde(default)]
    session: String,
    #[serde(default)]
    page: Kind,
}

/// What of it is sent. What a page that is older than this gateway asks for is told by `session` alone.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
enum Kind {
    #[default]
    Overview,
    Session,
    Alarms,
}

/// One open page.
struct Page {
    dashboard: Dashboard,
    state: HttpState,
    signed_in: SignedIn,
    seen: Seen,
    people: watch::Receiver<u64>,
    /// Of the token; the page comes with another one.
    until: Instant,
    /// Among the open pages of this person, and of all.
    _place: Place,
    kind: Kind,
    /// Empty: all.
    session: String,
    tick: Interval,
    /// What the page has: element to hash.
    has: HashMap<String, u64>,
    /// Ready to be sent.
    queue: VecDeque<Sent>,
    /// What the page has is not known: all rows are sent, instead of those that changed.
    is_new: bool,
    over: bool,
}

/// Steps of a page as a stream.
struct Pages {
    next: Option<Step>,
}

type Step = Pin<Box<dyn Future<Output = Option<(Sent, Page)>> + Send>>;

/// A token for the streams of this page.
pub(super) async fn token(viewer: Viewer) -> Response {
    Json(json!({ "token": viewer.stream_token() })).into_response()
}

pub(super) async fn live(State(state): State<HttpState>, Query(asked): Query<Asked>) -> Response {
    match open(state, asked).await {
        Ok(page) => Sse::new(Pages { next: Some(Box::pin(page.step())) }).into_response(),
        Err(error) => problem(&error),
    }
}

async fn open(state: HttpState, asked: Asked) -> Result<Page> {
    let dashboard = super::of(&state)?.clone();
    let people = dashboard.shown.people.watch();
    let (signed_in, left) = dashboard.shown.people.of_stream(&asked.token)?;
    let place = dashboard.places.take(&signed_in.person.name)?;
    let seen = Seen::of(&dashboard, &signed_in.person).await?;
    let mut tick = tokio::time::interval(EVERY);
    tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    Ok(Page {
        dashboard,
        state,
        signed_in,
        seen,
        people,
        until: Instant::now() + left,
        _place: place,
        kind: if asked.page == Kind::Overview && !asked.session.is_empty() { Kind::Session } else { asked.page },
        session: asked.session,
        tick,
        has: HashMap::new(),
        queue: VecDeque::new(),
        is_new: true,
        over: false,
    })
}

// === impl Page ===

impl Page {
    /// The next event for the browser; `None` ends the stream.
    async fn step(mut self) -> Option<(Sent, Self)> {
        let (stopping, over) = (self.dashboard.shown.stopping.clone(), self.signed_in.over.clone());
        loop {
            if over.is_cancelled() {
                self.ends_with("over");
            }
            if self.over {
                return self.queue.pop_front().map(|last| (last, self));
            }
            if !self.seen.is_current(&self.dashboard) {
                self.forget_unsent();
            }
            if let Some(sent) = self.queue.pop_front() {
                return Some((sent, self));
            }
            tokio::select! {
                biased;
                () = stopping.cancelled() => return None,
                // Signed out, another password, another role, removed.
                () = over.cancelled() => continue,
                () = sleep_until(self.until) => {
                    self.ends_with("renew");
                    continue;
                }
                // People changed: look at once, a second is long for a right that was taken away.
                Ok(()) = self.people.changed() => {}
                _ = self.tick.tick() => {}
            }
            if self.look().await.is_err() {
                self.ends_with("over");
            }
        }
    }

    /// Nothing follows.
    fn ends_with(&mut self, event: &'static str) {
        if !self.over {
            self.queue = [Sent::default().event(event).data("{}")].into();
            self.over = true;
        }
    }

    async fn look(&mut self) -> Result<()> {
        self.refresh().await?;
        match self.kind {
            Kind::Overview => self.overview(),
            Kind::Session => self.one_session().await?,
            Kind::Alarms => self.alarms(),
        }
        let health = pages::trouble(&self.state, &self.signed_in.person);
        let tick = json!({ "degraded": health, "build": env!("CARGO_PKG_VERSION") });
        self.queue.push_back(sent("tick", &tick));
        Ok(())
    }

    /// What waits to be sent was made for other rights: it is made again at the next look, which is now.
    fn forget_unsent(&mut self) {
        if !self.queue.is_empty() {
            self.queue.clear();
            // The page may have these elements still, in whatever state.
            self.has.values_mut().for_each(|hash| *hash = 0);
            self.is_new = true;
        }
        self.tick.reset_immediately();
    }

    /// Asks what this person sees, if that may have changed. Who they are does not change while they are signed in.
    async fn refresh(&mut self) -> Result<()> {
        if !self.seen.is_current(&self.dashboard) {
            self.seen = Seen::of(&self.dashboard, &self.signed_in.person).await?;
        }
        Ok(())
    }

    fn overview(&mut self) {
        let look = self.dashboard.board.look();
        let mine = || look.rows.iter().filter(|row| self.seen.sees_tag(&row.tag));
        let mut shown: HashMap<String, u64> = mine().map(|row| (row.id.clone(), row.hash)).collect();
        let mut changed = Vec::new();
        if self.is_new {
            let rows: String = mine().map(|row| &*row.html).collect();
            changed.push(inner("rows", &rows));
        } else {
            let differs = |row: &&Row| self.has.get(&row.id) != Some(&row.hash);
            let rows: Vec<_> = mine().filter(differs).map(|row| json!({ "id": row.id, "html": row.html })).collect();
            if !rows.is_empty() {
                // One event, so that the browser lays the page out once.
                changed.push(sent("parts", &json!({ "parent": "rows", "parts": rows })));
            }
            let gone = self.has.keys().filter(|id| !shown.contains_key(*id) && *id != "totals");
            changed.extend(gone.map(|id| sent("gone", &json!({ "id": id }))));
        }
        let totals = views::totals(mine(), &pages::trouble(&self.state, &self.signed_in.person)).0;
        shown.insert("totals".to_owned(), hash(&totals));
        if self.has.get("totals") != shown.get("totals") {
            changed.push(inner("totals", &totals));
        }
        self.queue.extend(changed);
        self.is_new = false;
        self.has = shown;
    }

    fn alarms(&mut self) {
        let look = self.dashboard.alarms.look();
        let visible = look.visible(&self.seen, &self.session);
        let order = visible.rows.iter().map(|row| row.id.as_str()).collect::<Vec<_>>().join(" ");
        let mut shown: HashMap<String, u64> = visible.rows.iter().map(|row| (row.id.clone(), row.hash)).collect();
        shown.insert("order".to_owned(), hash(&order));
        if self.is_new || self.has.get("order") != shown.get("order") {
            // In the order of their urgency: all of them, because most places change when one comes.
            self.queue.push_back(inner("rows", &views::alarms::rows(&visible).0));
        } else {
            let differs = |row: &&&AlarmRow| self.has.get(&row.id) != Some(&row.hash);
            let rows = visible.rows.iter().filter(differs).map(|row| json!({ "id": row.id, "html": row.html }));
            let rows: Vec<_> = rows.collect();
            if !rows.is_empty() {
                self.queue.push_back(sent("parts", &json!({ "parent": "rows", "parts": rows })));
            }
        }
        for (id, html) in views::alarms::parts(&visible) {
            let hash = hash(&html);
            if self.has.get(id) != Some(&hash) {
                self.queue.push_back(inner(id, &html));
            }
            shown.insert(id.to_owned(), hash);
        }
        self.is_new = false;
        self.has = shown;
    }

    async fn one_session(&mut self) -> Result<()> {
        let found = self.dashboard.shown.sessions.find(&self.session).ok().filter(|session| self.seen.sees(session));
        let Some(session) = found else {
            // Gone, or not to be seen any more: what the page shows of it is emptied.
            const GONE: &str = "This session has ended, or you may not see it.";
            self.queue.push_back(inner("facts", &format!("<p>{GONE}</p>")));
            for id in ["readers", "events"] {
                self.queue.push_back(inner(id, &format!("<tr><td colspan=\"7\">{GONE}</td></tr>")));
            }
            self.has.clear();
            return Ok(());
        };
        let newest = newest(&session).await;
        let parts = [
            ("facts", views::session_facts(&session).0),
            ("readers", views::readers(&session).0),
            ("events", views::events(&newest).0),
        ];
        for (id, html) in parts {
            let hash = hash(&html);
            if self.has.insert(id.to_owned(), hash) != Some(hash) {
                self.queue.push_back(inner(id, &html));
            }
        }
        Ok(())
    }
}

/// The newest events with their items' tags, oldest first. Reads the log as any reader does, from a place near the end:
/// nothing is kept per page, and the pump does not know.
pub(super) async fn newest(session: &Arc<Session>) -> Vec<(Event, Option<String>)> {
    let spec = ReaderSpec { name: "dashboard".into(), key_id: String::new(), external: false, max_linger_ms: 1_000 };
    let start = Start::Resume { epoch: session.log.epoch(), after: session.log.head().saturating_sub(NEWEST) };
    let Ok(mut cursor) = session.log.attach(spec, start) else { return Vec::new() };
    let mut events = Vec::new();
    while cursor.position() < session.log.head() && (events.len() as u64) < NEWEST {
        let next = poll_fn(|cx| cursor.poll_next(cx, View::All)).await;
        match &next {
            Next::Batch(batch) => {
                // The payload is what follows a batch's header: events under their number.
                events.extend(EventBatch::decode(batch.payload.clone()).map(|batch| batch.events).unwrap_or_default());
            }
            Next::Gap(_) => {}
            Next::Ended(_) => break,
        }
        cursor.commit(&next);
    }
    events.truncate(NEWEST as usize);
    session.with_items(|items| {
        let tags: HashMap<u64, String> = items.iter_live().map(|item| (item.key, item.tag.to_string())).collect();
        events
            .into_iter()
            .map(|event| {
                let tag = tags.get(&event.item_key).cloned();
                (event, tag)
            })
            .collect()
    })
}

/// What is inside the element of this id from now on.
fn inner(id: &str, html: &str) -> Sent {
    sent("inner", &json!({ "id": id, "html": html }))
}

fn sent(event: &'static str, data: &serde_json::Value) -> Sent {
    Sent::default().event(event).data(data.to_string())
}

// === impl Pages ===

impl Stream for Pages {
    type Item = Result<Sent, Infallible>;

    fn poll_next(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        let Some(step) = &mut self.next else { return Poll::Ready(None) };
        let stepped = ready!(step.as_mut().poll(context));
        let (item, next) = match stepped {
            Some((sent, page)) => (Some(Ok(sent)), Some(Box::pin(page.step()) as Step)),
            None => (None, None),
        };
        self.next = next;
        Poll::Ready(item)
    }
}
