//! A policy's row in the listing. Knows neither flips nor what lies behind the serving set.

use crate::contract::Contract;
use crate::failure::CLOSED_RULE;
use crate::gate::Loaded;
use crate::generation::NOBODY;
use crate::model::Policy;
use crate::record::{Origin, PolicyRow};

pub(super) fn row(policy: Policy, loaded: &Loaded) -> PolicyRow {
    PolicyRow {
        policy,
        name: loaded.name.clone(),
        version: loaded.version.clone(),
        digest: loaded.source.digest,
        settings_digest: loaded.source.settings_digest,
        origin: match loaded.source.embedded {
            true => Origin::Embedded,
            false => Origin::File(loaded.source.file.to_string()),
        },
        rules: loaded.rules.iter().map(|rule| rule.to_string()).collect(),
        contract: loaded.contract.name(),
        signer: loaded.source.signer.as_ref().map(|name| name.to_string()),
    }
}

pub(super) fn closed(policy: Policy) -> PolicyRow {
    PolicyRow {
        policy,
        name: policy.name().to_owned(),
        version: String::new(),
        digest: NOBODY,
        settings_digest: NOBODY,
        origin: Origin::Closed,
        rules: vec![CLOSED_RULE.to_owned()],
        contract: Contract::NEWEST.name(),
        signer: None,
    }
}
