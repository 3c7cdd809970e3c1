//! A gateway of a few lines with one simulator behind it. Waits for conditions, never for a while; every wait has a
//! bound that only a broken test reaches.

use prost::Message as _;
use std::{collections::VecDeque, time::Duration};
use tempfile::TempDir;
use tidegate_pipe::{GatewayReader, GatewayWriter, PipeError, Secret, WorkerListener};
use tidegate_proto::{
    v1::{
        AddItem, Advise, Command, CommandResult, Event, EventBatch, MxStatus, Register, Value, Write, command::Method,
        command_result::Result as Returned, event::Body, value::Kind,
    },
    worker::v1::{
        Accept, CommandFrame, FromGateway, Heartbeat, Hello, Reply, Shutdown, from_gateway, from_worker::Frame,
    },
};
use tidegate_worker::{Ended, Outcome, WorkerArgs, run_sim_with};
use tokio::task::JoinHandle;

pub(crate) const BOUND: Duration = Duration::from_secs(60);
pub(crate) const E_INVALIDARG: i32 = 0x8007_0057_u32 as i32;
pub(crate) const E_ACCESSDENIED: i32 = 0x8007_0005_u32 as i32;
pub(crate) const OK: MxStatus = MxStatus { success: -1, category: 0, detected_by: 0, detail: 0 };

pub(crate) struct Session {
    pub(crate) hello: Hello,
    pub(crate) worker: JoinHandle<Result<Outcome, Ended>>,
    /// Came while something else was awaited.
    pub(crate) events: VecDeque<Event>,
    pub(crate) beats: VecDeque<Heartbeat>,
    pub(crate) head: u64,
    pub(crate) server: i32,
    reader: GatewayReader,
    writer: GatewayWriter,
    ids: u64,
    listener: WorkerListener,
    secret: Secret,
    _folder: TempDir,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Item {
    pub(crate) handle: i32,
    pub(crate) key: u64,
}

impl Session {
    /// A simulator of these settings, with one client registered.
    pub(crate) async fn start(settings: &str) -> Self {
        let mut session = Self::accept(Accept { settings: settings.to_owned(), ..Accept::default() }).await;
        session.server = session.register().await;
        session
    }

    pub(crate) async fn accept(accept: Accept) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("workers.sock");
        let listener = WorkerListener::bind(&path).unwrap();
        let secret = Secret::mint().unwrap();
        let args = WorkerArgs { connect: path, session: "session-1".to_owned() };
        let worker = tokio::spawn(run_sim_with(args, secret.clone()));
        let pending = listener.accept().await.unwrap().hello(BOUND).await.unwrap();
        let hello = pending.hello.clone();
        let proven = pending.challenge(&secret, BOUND).await.unwrap();
        let (reader, writer) = proven.accept(accept, BOUND).await.unwrap().split();
        Self {
            hello,
            worker,
            events: VecDeque::new(),
            beats: VecDeque::new(),
            head: 0,
            server: 0,
            reader,
            writer,
            ids: 0,
            listener,
            secret,
            _folder: folder,
        }
    }

    /// The next frame that is no heartbeat; events are put by, after a look at all that must hold of them.
    pub(crate) async fn frame(&mut self) -> Result<Option<Frame>, PipeError> {
        let message = tokio::time::timeout(BOUND, self.reader.recv()).await.expect("a frame within the bound")?;
        let Some(frame) = message.map(|message| message.frame.expect("a frame of a known kind")) else {
            return Ok(None);
        };
        match &frame {
            Frame::Events(events) => {
                let decoded = EventBatch::decode(events.events.clone()).unwrap().events;
                assert_eq!(events.epoch, self.hello.epoch);
                assert_eq!(events.first, self.head + 1, "no hole and no step back");
                assert_eq!(events.count as usize, decoded.len());
                assert!((1..=256).contains(&events.count) && events.events.len() <= 256 << 10);
                // The gateway's index reads these two without decoding.
                assert_eq!(events.events[0], 0x7A);
                for event in decoded {
                    self.head += 1;
                    assert_eq!(event.sequence, self.head);
                    self.events.push_back(event);
                }
            }
            Frame::Heartbeat(beat) => {
                assert_eq!(beat.head, self.head, "a heartbeat tells what the pipe has carried before it");
                self.beats.push_back(*beat);
            }
            _ => {}
        }
        Ok(Some(frame))
    }

    /// The next frame as it is.
    pub(crate) async fn raw(&mut self) -> Result<Option<Frame>, PipeError> {
        let message = tokio::time::timeout(BOUND, self.reader.recv()).await.expect("a frame within the bound")?;
        Ok(message.and_then(|message| message.frame))
    }

    /// Adds and advises without looking at what comes.
    pub(crate) async fn ask_advise(&mut self, tag: &str) {
        let item = self.add(tag).await;
        self.ask(Method::Advise(Advise { server_handle: self.server, item_handle: item.handle })).await;
    }

    pub(crate) async fn send(&mut self, frame: from_gateway::Frame) {
        self.writer.send(&FromGateway { frame: Some(frame) }).await.unwrap();
    }

    /// Sends a command without waiting for anything.
    pub(crate) async fn ask(&mut self, method: Method) -> u64 {
        self.ids += 1;
        self.repeat(self.ids, method).await
    }

    pub(crate) async fn repeat(&mut self, id: u64, method: Method) -> u64 {
        let command = CommandFrame { id, command: Some(Command { method: Some(method) }) };
        self.send(from_gateway::Frame::Command(command)).await;
        id
    }

    pub(crate) async fn answer(&mut self, id: u64) -> CommandResult {
        loop {
            match self.frame().await.unwrap() {
                Some(Frame::Reply(Reply { id: answered, result })) => {
                    assert_eq!(answered, id, "answers keep the order of the commands");
                    return result.unwrap();
                }
                Some(Frame::Events(_) | Frame::Heartbeat(_)) => {}
                other => panic!("{other:?}"),
            }
        }
    }

    pub(crate) async fn call(&mut self, method: Method) -> CommandResult {
        let id = self.ask(method).await;
        self.answer(id).await
    }

    /// A call that must succeed.
    pub(crate) async fn done(&mut self, method: Method) -> Option<Returned> {
        let result = self.call(method).await;
        assert_eq!((result.hresult, result.message.as_str()), (0, ""));
        result.result
    }

    pub(crate) async fn register(&mut self) -> i32 {
        match self.done(Method::Register(Register { client_name: "test".to_owned() })).await {
            Some(Returned::ServerHandle(handle)) => handle,
            other => panic!("{other:?}"),
        }
    }

    pub(crate) async fn add(&mut self, tag: &str) -> Item {
        let call = AddItem { server_handle: self.server, definition: tag.to_owned() };
        match self.done(Method::AddItem(call)).await {
            Some(Returned::Item(item)) => Item { handle: item.item_handle, key: item.item_key },
            other => panic!("{other:?}"),
        }
    }

    pub(crate) async fn advise(&mut self, item: Item) {
        let call = Advise { server_handle: self.server, item_handle: item.handle };
        self.done(Method::Advise(call)).await;
    }

    /// Adds and advises.
    pub(crate) async fn subscribe(&mut self, tag: &str) -> Item {
        let item = self.add(tag).await;
        self.advise(item).await;
        item
    }

    pub(crate) fn writing(&self, item: Item, kind: Kind) -> Method {
        let value = Some(value(kind));
        Method::Write(Write { server_handle: self.server, item_handle: item.handle, value, user_id: 0 })
    }

    /// Writes a word to an item of the simulator's own.
    pub(crate) async fn order(&mut self, control: Item, text: &str) {
        let method = self.writing(control, Kind::Text(text.to_owned()));
        self.done(method).await;
    }

    /// The next event of an item; those of others are left for later.
    pub(crate) async fn event(&mut self, item: Item) -> Event {
        loop {
            if let Some(at) = self.events.iter().position(|event| event.item_key == item.key) {
                let event = self.events.remove(at).unwrap();
                assert_eq!((event.server_handle, event.item_handle), (self.server, item.handle));
                return event;
            }
            match self.frame().await.unwrap() {
                Some(Frame::Events(_) | Frame::Heartbeat(_)) => {}
                other => panic!("{other:?}"),
            }
        }
    }

    /// Value and quality of the item's next data change; other events of it must not come first.
    pub(crate) async fn change(&mut self, item: Item) -> (Option<Kind>, i32) {
        match self.event(item).await.body {
            Some(Body::DataChange(change)) => (change.value.and_then(|value| value.kind), change.quality),
            other => panic!("{other:?}"),
        }
    }

    pub(crate) async fn completion(&mut self, item: Item) -> MxStatus {
        match self.event(item).await.body {
            Some(Body::WriteComplete(complete)) => complete.statuses[0],
            other => panic!("{other:?}"),
        }
    }

    /// Asks for an end in order; the reason that Goodbye gives.
    pub(crate) async fn shutdown(&mut self, deadline: Duration) -> String {
        let deadline_ms = deadline.as_millis() as u32;
        self.send(from_gateway::Frame::Shutdown(Shutdown { deadline_ms, reason: "test".to_owned() })).await;
        self.goodbye().await
    }

    pub(crate) async fn goodbye(&mut self) -> String {
        loop {
            match self.frame().await.unwrap() {
                Some(Frame::Goodbye(goodbye)) => return goodbye.reason,
                Some(_) => {}
                None => panic!("the pipe ended without a goodbye"),
            }
        }
    }

    /// Reads until the pipe ends, and says how the worker ended.
    pub(crate) async fn ended(&mut self) -> Result<Outcome, Ended> {
        while let Ok(Some(_)) = self.frame().await {}
        self.joined().await
    }

    pub(crate) async fn joined(&mut self) -> Result<Outcome, Ended> {
        tokio::time::timeout(BOUND, &mut self.worker).await.expect("the worker ends").unwrap()
    }

    /// Breaks the pipe, and takes the worker back once it has told this many events to nobody. Returns its head when it
    /// first called, and where its resend begins, of which nothing is read yet.
    pub(crate) async fn adopted_after(self, events: u64, accept: Accept) -> (Self, u64, u64) {
        drop((self.reader, self.writer));
        let mut alone_at = None;
        let pending = loop {
            let pending = self.listener.accept().await.unwrap().hello(BOUND).await.unwrap();
            let head = pending.hello.adopt.as_ref().expect("it has had a gateway").head;
            if head >= *alone_at.get_or_insert(head) + events {
                break pending;
            }
            // Hung up on it calls again.
        };
        let proven = pending.challenge(&self.secret, BOUND).await.unwrap();
        let (mut reader, writer) = proven.accept(accept, BOUND).await.unwrap().split();
        let from = match reader.recv().await.unwrap().and_then(|message| message.frame) {
            Some(Frame::Resend(resend)) => resend.from,
            other => panic!("{other:?}"),
        };
        (Self { reader, writer, head: from - 1, ..self }, alone_at.unwrap_or_default(), from)
    }

    /// Lets go of the pipe, as a gateway that dies.
    pub(crate) async fn vanish(self) -> Result<Outcome, Ended> {
        let Self { reader, writer, worker, .. } = self;
        drop((reader, writer));
        tokio::time::timeout(BOUND, worker).await.expect("the worker ends").unwrap()
    }
}

pub(crate) fn value(kind: Kind) -> Value {
    Value { kind: Some(kind), data_type: 0 }
}
