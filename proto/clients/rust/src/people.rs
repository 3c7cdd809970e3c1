//! People of the dashboard, for operators.

use crate::{ClientError, gateway::authorized};
use tidegate_proto::v1::{
    GroupGrant, ListPeopleRequest, ListPeopleResponse, PutPersonRequest, RemovePersonRequest, SetGrantRequest,
    people_admin_client::PeopleAdminClient,
};
use tonic::{
    metadata::{Ascii, MetadataValue},
    transport::Channel,
};

/// `tidegate.v1.PeopleAdmin`.
#[derive(Clone, Debug)]
pub struct PeopleAdmin {
    client: PeopleAdminClient<Channel>,
    key: Option<MetadataValue<Ascii>>,
}

// === impl PeopleAdmin ===

impl PeopleAdmin {
    pub(crate) fn new(channel: Channel, key: Option<MetadataValue<Ascii>>) -> Self {
        Self { client: PeopleAdminClient::new(channel), key }
    }

    /// Adds a person or replaces one.
    pub async fn put(&self, request: PutPersonRequest) -> Result<(), ClientError> {
        self.client.clone().put_person(authorized(self.key.as_ref(), request)).await?;
        Ok(())
    }

    pub async fn remove(&self, name: &str) -> Result<(), ClientError> {
        self.client
            .clone()
            .remove_person(authorized(self.key.as_ref(), RemovePersonRequest { name: name.into() }))
            .await?;
        Ok(())
    }

    /// All people, and what their groups are granted.
    pub async fn list(&self) -> Result<ListPeopleResponse, ClientError> {
        Ok(self.client.clone().list_people(authorized(self.key.as_ref(), ListPeopleRequest {})).await?.into_inner())
    }

    /// Lets a group see the sessions of a tag; `remove`: no longer.
    pub async fn set_grant(&self, group: &str, tag: &str, remove: bool) -> Result<(), ClientError> {
        let grant = Some(GroupGrant { group: group.into(), tag: tag.into() });
        self.client.clone().set_grant(authorized(self.key.as_ref(), SetGrantRequest { grant, remove })).await?;
        Ok(())
    }
}
