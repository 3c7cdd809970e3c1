//! The client API with types: sessions, MXAccess methods, streams. One call here is one call on the
//! wire. It keeps nothing between calls, so a clone is free and may be used at the same time.

use crate::{ClientError, EventStream, Start, StreamOptions};
use tidegate_proto::v1::{
    AddItem, BulkResults, CloseSessionRequest, Command, CommandResult, GetSessionState, InvokeRequest,
    OpenSessionRequest, OpenSessionResponse, ReadBulk, Register, SessionState, SnapshotRequest, SnapshotResponse,
    SubscribeBulk, Unregister, Value, Write, WriteBulk, command::Method, command_result::Result as Outcome,
    gateway_client::GatewayClient,
};
use tonic::{
    Request,
    metadata::{Ascii, MetadataValue},
    transport::Channel,
};

/// A connection to the client API.
#[derive(Clone, Debug)]
pub struct Gateway {
    client: GatewayClient<Channel>,
    key: Option<MetadataValue<Ascii>>,
}

/// An item that SubscribeBulk was asked for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Advised {
    pub tag: String,
    /// The handle and the key, or the HRESULT and what the server said.
    pub item: Result<(i32, u64), (i32, String)>,
    /// The access policy refused it: the decision, for `tidegate policy explain`. Empty otherwise.
    pub decision: String,
}

// === impl Gateway ===

impl Gateway {
    pub(crate) fn new(client: GatewayClient<Channel>, key: Option<MetadataValue<Ascii>>) -> Self {
        Self { client, key }
    }

    pub async fn open(&self, request: OpenSessionRequest) -> Result<OpenSessionResponse, ClientError> {
        Ok(self.client.clone().open_session(self.request(request)).await?.into_inner())
    }

    /// Returns the newest sequence the session ever had.
    pub async fn close(&self, session_id: &str) -> Result<u64, ClientError> {
        let request = CloseSessionRequest { session_id: session_id.into() };
        Ok(self.client.clone().close_session(self.request(request)).await?.into_inner().head)
    }

    /// The last value of each item, in as many parts as it takes; taken again when rights or items changed meanwhile.
    pub async fn snapshot(&self, session_id: &str) -> Result<SnapshotResponse, ClientError> {
        loop {
            match self.snapshot_once(session_id).await {
                Err(error) if error.reason() == Some("snapshot.superseded") => {}
                taken => return taken,
            }
        }
    }

    async fn snapshot_once(&self, session_id: &str) -> Result<SnapshotResponse, ClientError> {
        let request = SnapshotRequest { session_id: session_id.into() };
        let mut parts = self.client.clone().snapshot_stream(self.request(request)).await?.into_inner();
        let mut items = Vec::new();
        while let Some(part) = parts.message().await? {
            items.extend(part.items);
            if part.last {
                let (epoch, as_of, generation) = (part.epoch, part.as_of, part.generation);
                return Ok(SnapshotResponse { epoch, as_of, generation, items });
            }
        }
        Err(ClientError::Incomplete("the last part of the snapshot"))
    }

    /// Opens a stream and waits for its first message.
    pub async fn stream(
        &self,
        session_id: &str,
        start: Start,
        options: StreamOptions,
    ) -> Result<EventStream, ClientError> {
        EventStream::open(self, session_id, start, options).await
    }

    /// Any method of MXAccess; `timeout_ms` 0 takes the session's own.
    pub async fn invoke(
        &self,
        session_id: &str,
        method: Method,
        timeout_ms: u32,
    ) -> Result<CommandResult, ClientError> {
        self.command(session_id, Command { method: Some(method) }, timeout_ms).await
    }

    /// A write for a runtime node that this key attached to the session.
    pub async fn invoke_for(
        &self,
        node_id: &str,
        session_id: &str,
        method: Method,
        timeout_ms: u32,
    ) -> Result<CommandResult, ClientError> {
        let command = Some(Command { method: Some(method) });
        self.send(InvokeRequest { session_id: session_id.into(), command, timeout_ms, node_id: node_id.into() }).await
    }

    /// A command as it stands.
    pub async fn command(
        &self,
        session_id: &str,
        command: Command,
        timeout_ms: u32,
    ) -> Result<CommandResult, ClientError> {
        let command = Some(command);
        self.send(InvokeRequest { session_id: session_id.into(), command, timeout_ms, node_id: String::new() }).await
    }

    async fn send(&self, request: InvokeRequest) -> Result<CommandResult, ClientError> {
        let response = self.client.clone().invoke(self.request(request)).await?.into_inner();
        response.result.ok_or(ClientError::Incomplete("the result"))
    }

    pub async fn register(&self, session_id: &str, client_name: &str) -> Result<i32, ClientError> {
        let method = Method::Register(Register { client_name: client_name.into() });
        match self.invoke(session_id, method, 0).await?.result {
            Some(Outcome::ServerHandle(handle)) => Ok(handle),
            _ => Err(ClientError::Incomplete("the server handle")),
        }
    }

    /// Removes the registration and every item of it.
    pub async fn unregister(&self, session_id: &str, server_handle: i32) -> Result<(), ClientError> {
        self.invoke(session_id, Method::Unregister(Unregister { server_handle }), 0).await.map(|_| ())
    }

    /// Returns the item's handle and key.
    pub async fn add_item(
        &self,
        session_id: &str,
        server_handle: i32,
        definition: &str,
    ) -> Result<(i32, u64), ClientError> {
        let method = Method::AddItem(AddItem { server_handle, definition: definition.into() });
        match self.invoke(session_id, method, 0).await?.result {
            Some(Outcome::Item(item)) => Ok((item.item_handle, item.item_key)),
            _ => Err(ClientError::Incomplete("the item")),
        }
    }

    /// AddItem and Advise for each tag; a bad one does not fail the rest.
    pub async fn subscribe(
        &self,
        session_id: &str,
        server_handle: i32,
        tags: &[impl AsRef<str>],
    ) -> Result<Vec<Advised>, ClientError> {
        let definitions: Vec<String> = tags.iter().map(|tag| tag.as_ref().to_owned()).collect();
        let method = Method::SubscribeBulk(SubscribeBulk {
            server_handle,
            definitions: definitions.clone(),
            supervisory: false,
        });
        let results = bulk(self.invoke(session_id, method, 0).await?)?.results;
        if results.len() != definitions.len() {
            return Err(ClientError::Incomplete("a result for each tag"));
        }
        let advised = |(tag, result): (String, tidegate_proto::v1::BulkResult)| Advised {
            tag,
            item: match result.hresult {
                0 => Ok((result.item_handle, result.item_key)),
                hresult => Err((hresult, result.message)),
            },
            decision: result.decision_id,
        };
        Ok(definitions.into_iter().zip(results).map(advised).collect())
    }

    /// A result for each tag, in order.
    pub async fn read(
        &self,
        session_id: &str,
        server_handle: i32,
        tags: &[impl AsRef<str>],
        timeout_ms: u32,
    ) -> Result<BulkResults, ClientError> {
        let definitions = tags.iter().map(|tag| tag.as_ref().to_owned()).collect();
        let method = Method::ReadBulk(ReadBulk { server_handle, definitions, timeout_ms });
        bulk(self.invoke(session_id, method, 0).await?)
    }

    /// Hands a write to the server. It is complete only with its OnWriteComplete.
    pub async fn write(
        &self,
        session_id: &str,
        server_handle: i32,
        item_handle: i32,
        value: Value,
        user_id: i32,
    ) -> Result<(), ClientError> {
        let method = Method::Write(Write { server_handle, item_handle, value: Some(value), user_id });
        self.invoke(session_id, method, 0).await.map(|_| ())
    }

    /// A result for each write, in order.
    pub async fn write_bulk(&self, session_id: &str, writes: WriteBulk) -> Result<BulkResults, ClientError> {
        bulk(self.invoke(session_id, Method::WriteBulk(writes), 0).await?)
    }

    /// Registrations and items as the worker has them.
    pub async fn state(&self, session_id: &str) -> Result<SessionState, ClientError> {
        match self.invoke(session_id, Method::GetSessionState(GetSessionState {}), 0).await?.result {
            Some(Outcome::SessionState(state)) => Ok(state),
            _ => Err(ClientError::Incomplete("the session's state")),
        }
    }

    pub(crate) fn client(&self) -> GatewayClient<Channel> {
        self.client.clone()
    }

    pub(crate) fn request<T>(&self, message: T) -> Request<T> {
        authorized(self.key.as_ref(), message)
    }
}

pub(crate) fn authorized<T>(key: Option<&MetadataValue<Ascii>>, message: T) -> Request<T> {
    let mut request = Request::new(message);
    if let Some(key) = key {
        request.metadata_mut().insert("authorization", key.clone());
    }
    request
}

fn bulk(result: CommandResult) -> Result<BulkResults, ClientError> {
    match result.result {
        Some(Outcome::Bulk(results)) => Ok(results),
        _ => Err(ClientError::Incomplete("the bulk results")),
    }
}
