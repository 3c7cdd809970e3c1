//! A session of a story: items, controls of its simulator, its readers.

use super::{Reader, eventually};
use tidegate_client::{
    ClientError, Gateway as Client, Start, StreamOptions,
    wire::{OpenSessionResponse, Value, event::Body, value::Kind},
};

/// An open session with a registration.
pub(crate) struct Session {
    pub(crate) client: Client,
    pub(crate) id: String,
    pub(crate) pid: u32,
    pub(crate) epoch: u64,
    pub(crate) server: i32,
}

/// An item of a session.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Item {
    pub(crate) tag: String,
    pub(crate) handle: i32,
    pub(crate) key: u64,
}

// === impl Session ===

impl Session {
    pub(crate) async fn new(client: Client, opened: OpenSessionResponse) -> Self {
        let OpenSessionResponse { session_id: id, worker_pid: pid, epoch, .. } = opened;
        let server = client.register(&id, "story").await.expect("a registration");
        Self { client, id, pid, epoch, server }
    }

    /// Adds and advises items, all of which must work.
    pub(crate) async fn advise(&self, tags: &[&str]) -> Vec<Item> {
        self.advise_for(self.server, tags).await
    }

    async fn advise_for(&self, server: i32, tags: &[&str]) -> Vec<Item> {
        let advised = self.client.subscribe(&self.id, server, tags).await.expect("advised");
        advised
            .into_iter()
            .map(|one| {
                let (handle, key) = one.item.unwrap_or_else(|refusal| panic!("{}: {refusal:?}", one.tag));
                Item { tag: one.tag, handle, key }
            })
            .collect()
    }

    /// A reader of what comes from now on.
    pub(crate) async fn reader(&self, name: &str) -> Reader {
        self.reader_from(name, Start::Live).await
    }

    pub(crate) async fn reader_from(&self, name: &str, start: Start) -> Reader {
        self.try_reader(&self.client, name, start).await.expect("a stream")
    }

    /// The same reader on another stream: its account goes on where the last one ended.
    pub(crate) async fn go_on(&self, name: &str, before: &Reader) -> Reader {
        let options = StreamOptions { reader_name: name.into(), account: before.account(), ..Default::default() };
        let start = Start::Resume(before.position());
        Reader::new(name, self.client.stream(&self.id, start, options).await.expect("a stream"))
    }

    /// A reader with another connection or key.
    pub(crate) async fn try_reader(&self, client: &Client, name: &str, start: Start) -> Result<Reader, ClientError> {
        let options = StreamOptions { reader_name: name.into(), ..Default::default() };
        Ok(Reader::new(name, client.stream(&self.id, start, options).await?))
    }

    pub(crate) async fn write(&self, item: &Item, value: f64) -> Result<(), ClientError> {
        let value = Value { kind: Some(Kind::Double(value)), data_type: 0 };
        self.client.write(&self.id, self.server, item.handle, value, 0).await
    }

    /// Makes the simulator do what it was not made for.
    pub(crate) async fn fault(&self, what: &str) -> Result<(), ClientError> {
        let (handle, _) = self.client.add_item(&self.id, self.server, "$Sim.Fault").await.expect("faults are on");
        let value = Value { kind: Some(Kind::Text(what.into())), data_type: 0 };
        self.client.write(&self.id, self.server, handle, value, 0).await
    }

    /// Waits until every item has a value, stops the waveforms, and says where the events end.
    pub(crate) async fn quiet(&self) -> u64 {
        eventually("a value of every item", async || {
            let items = self.client.snapshot(&self.id).await.expect("a snapshot").items;
            items.iter().all(|item| item.last.is_some()).then_some(())
        })
        .await;
        let mut reader = self.reader("quiet").await;
        // A registration of its own: when it goes, nothing more comes of the control.
        let server = self.client.register(&self.id, "control").await.expect("a registration");
        let rate = self.advise_for(server, &["$Sim.Rate"]).await.remove(0);
        let zero = Value { kind: Some(Kind::Integer(0)), data_type: 0 };
        self.client.write(&self.id, server, rate.handle, zero, 0).await.expect("written");
        reader
            .until("the rate to be set", |event| {
                event.item_key == rate.key && matches!(event.body, Some(Body::WriteComplete(_)))
            })
            .await;
        self.client.unregister(&self.id, server).await.expect("unregistered");
        self.head().await
    }

    /// Removes every item; says where the events end.
    pub(crate) async fn silence(&self) -> u64 {
        self.client.unregister(&self.id, self.server).await.expect("unregistered");
        self.head().await
    }

    /// The newest event. The gateway has it: the answer came behind it.
    pub(crate) async fn head(&self) -> u64 {
        self.client.state(&self.id).await.expect("the session's state").head
    }

    pub(crate) async fn close(&self) -> u64 {
        self.client.close(&self.id).await.expect("closed")
    }
}
