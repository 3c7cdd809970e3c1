//! `tidegate.v1.PeopleAdmin`, for the operator on the machine. Translates; every rule is of `people`.

use super::status::status;
use crate::{
    error::{Code, Error},
    people::{NewPerson, People, Role},
};
use tidegate_proto::v1::{
    GroupGrant, ListPeopleRequest, ListPeopleResponse, PersonSummary, PutPersonRequest, PutPersonResponse,
    RemovePersonRequest, RemovePersonResponse, SetGrantRequest, SetGrantResponse, people_admin_server::PeopleAdmin,
};
use tonic::{Request, Response, Status};

/// The service.
#[derive(Clone, Debug)]
pub(super) struct PeopleService(pub(super) People);

#[tonic::async_trait]
impl PeopleAdmin for PeopleService {
    async fn put_person(&self, request: Request<PutPersonRequest>) -> Result<Response<PutPersonResponse>, Status> {
        let PutPersonRequest { name, role, groups, password } = request.into_inner();
        let unknown = || {
            let error = Error::new(Code::PersonInvalid, "a role is Admin or Viewer");
            status(&error.with("field", "role"))
        };
        let role = Role::parse(&role).ok_or_else(unknown)?;
        self.0.put(NewPerson { name, role, groups, password }).await.map_err(|error| status(&error))?;
        Ok(Response::new(PutPersonResponse {}))
    }

    async fn remove_person(
        &self,
        request: Request<RemovePersonRequest>,
    ) -> Result<Response<RemovePersonResponse>, Status> {
        self.0.remove(&request.get_ref().name).await.map_err(|error| status(&error))?;
        Ok(Response::new(RemovePersonResponse {}))
    }

    async fn list_people(&self, _: Request<ListPeopleRequest>) -> Result<Response<ListPeopleResponse>, Status> {
        let people = self.0.list().await.map_err(|error| status(&error))?;
        let grants = self.0.grants().await.map_err(|error| status(&error))?;
        let summary = |person: &crate::people::Person| PersonSummary {
            name: person.name.to_string(),
            role: person.role.as_str().to_owned(),
            groups: person.groups.to_vec(),
            in_log: self.0.alias(&person.name),
        };
        Ok(Response::new(ListPeopleResponse {
            people: people.iter().map(summary).collect(),
            grants: grants.into_iter().map(|(group, tag)| GroupGrant { group, tag }).collect(),
        }))
    }

    async fn set_grant(&self, request: Request<SetGrantRequest>) -> Result<Response<SetGrantResponse>, Status> {
        let SetGrantRequest { grant, remove } = request.into_inner();
        let GroupGrant { group, tag } = grant.unwrap_or_default();
        let done = if remove { self.0.take_grant(&group, &tag).await } else { self.0.grant(&group, &tag).await };
        done.map_err(|error| status(&error))?;
        Ok(Response::new(SetGrantResponse {}))
    }
}
