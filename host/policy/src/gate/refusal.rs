//! Why a candidate was refused: a stable dotted code, the file, a sentence. Invariant: every code stands
//! in docs/policies/refusals.md.

use std::fmt;

use crate::instance::printable;

/// A refusal; the generation before serves on.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{file}: {message} [{}]", .code.as_str())]
pub struct Refusal {
    pub code: RefusalCode,
    /// The file at fault, or the folder.
    pub file: String,
    pub message: String,
}

macro_rules! refusal_codes {
    ($($variant:ident = $text:literal, $doc:literal, $remedy:literal;)*) => {
        /// The stable part of a refusal.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
        pub enum RefusalCode { $(#[doc = $doc] $variant,)* }

        impl RefusalCode {
            pub const ALL: &[RefusalCode] = &[$(RefusalCode::$variant,)*];

            /// None: no build of this version writes such a text.
            pub(crate) fn parse(text: &str) -> Option<Self> {
                Self::ALL.iter().copied().find(|code| code.as_str() == text)
            }

            /// The dotted text.
            pub const fn as_str(self) -> &'static str {
                match self { $(RefusalCode::$variant => $text,)* }
            }

            /// What makes it happen, a sentence.
            pub const fn cause(self) -> &'static str {
                match self { $(RefusalCode::$variant => $doc,)* }
            }

            /// What to do about it, a sentence.
            pub const fn remedy(self) -> &'static str {
                match self { $(RefusalCode::$variant => $remedy,)* }
            }
        }
    };
}

refusal_codes! {
    TooLarge = "plugin.too_large", "The file is larger than the limit.",
        "Make it smaller; a component of more than 64 MiB is no policy.";
    Unreadable = "plugin.unreadable", "The file or the folder cannot be read.",
        "Let the gateway's user read it; put it back if it is gone.";
    WritableByOthers = "plugin.writable_by_others", "Group or others may write the file or the folder.",
        "`chmod go-w`, for the file and for the folder.";
    NotRegular = "plugin.not_regular", "The file is not a regular one (a pipe, a folder, a device).",
        "Put a plain file there.";
    OutsideFolder = "plugin.outside_folder", "A link leads out of the plugins folder.",
        "Put the file itself into the folder, or link within it.";
    TooMany = "plugin.too_many", "The folder holds more plugin files than the limit.",
        "Take away what is not used.";
    NotAComponent = "plugin.not_a_component", "The file is not a WebAssembly component.",
        "Build it as a component: `tidegate policy build`, or `wasm-tools component new`.";
    CompileFailed = "plugin.compile_failed", "The component is malformed or cannot be compiled.",
        "Build it again; if it takes too long, make it smaller.";
    Compiling = "plugin.compiling", "It is still being compiled, or something else is that takes its time.",
        "Wait: it is taken up, or tried again, by itself; put a smaller one there if that is too long.";
    ImportForbidden = "plugin.import_forbidden", "The component imports something that policies are not given.",
        "Build it without what it imports; `tidegate policy inspect` shows what is inert here.";
    ContractUnknown = "plugin.contract_unknown", "The component keeps no version of the contract that is known here.",
        "Build it against a contract that the message names.";
    ContractMismatch = "plugin.contract_mismatch", "An export is missing or has other types than the contract's.",
        "Build it against the contract as it is in wit/; `tidegate policy check` tells the same.";
    DescribeFailed = "plugin.describe_failed", "`describe` failed, or what it said is not usable.",
        "Mend what `describe` says: name, version, rules, schema.";
    ConfigureFailed = "plugin.configure_failed", "`configure` trapped or took too long.",
        "Mend `configure`; it must end within two seconds.";
    SchemaInvalid = "plugin.schema_invalid", "The settings schema is not a JSON Schema of the supported kind.",
        "Keep to the keywords that docs/policies lists.";
    SettingsInvalid = "plugin.settings_invalid", "The settings do not fit the schema, or the component refuses them.",
        "Mend the settings; `tidegate policy inspect` shows what they may be.";
    SettingsMissing = "plugin.settings_missing", "Access settings that are in force were removed, the component was not.",
        "Put them back, or an empty file for none.";
    ComponentMissing = "plugin.component_missing", "The component that answered access was removed, its settings were not.",
        "Put it back, or `tidegate policy reload` if the embedded default is meant with these settings.";
    VectorsMissing = "plugin.vectors_missing", "The component brings no usable vectors for a question it answers.",
        "Bring at least one vector for each question; docs/policies/vectors.md.";
    VectorFailed = "plugin.vector_failed", "The component answers a vector of its own otherwise than it says.",
        "`tidegate policy test` shows what was asked, expected and answered.";
    NotStateless = "plugin.not_stateless", "The component answers otherwise when asked again or in another order.",
        "Let it answer by its arguments and settings alone.";
    DuplicatePolicy = "plugin.duplicate_policy", "Two components answer the same question.",
        "Take one of the two away.";
    DigestMismatch = "plugin.digest_mismatch", "A file is not the one that generation.toml names.",
        "Put the file that is meant, or its digest into generation.toml.";
    GenerationInvalid = "plugin.generation_invalid", "generation.toml cannot be understood.",
        "Mend generation.toml.";
    Unsigned = "plugin.unsigned", "There is no signature beside it, and only signed policies are taken here.",
        "`tidegate policy sign`, and put the signature beside it.";
    SignerUnknown = "plugin.signer_unknown", "It is signed, but by no key that is trusted here.",
        "Let a trusted key sign it, or add the key to those of `policy_keys`.";
    SignatureInvalid = "plugin.signature_invalid", "The signature is not of this component with these settings.",
        "Sign it again, with the settings that stand beside it.";
    Waits = "plugin.waits", "It is sound, and came with something that was refused: both come together or not at all.",
        "Mend the file that the message names, or take it away; or write this one again.";
    Held = "plugin.held", "It wants imports that nothing which answered this here was given; an operator has to approve it.",
        "Read what it wants, then `tidegate policy approve` with a reason.";
    Differs = "plugin.differs", "It would have answered more of the latest questions otherwise than is allowed.",
        "`tidegate policy diff` shows whom it would hit; then `tidegate policy approve` with a reason, or mend it.";
    Poisoned = "plugin.poisoned", "This very component was taken back because it kept failing.",
        "Put another version there, or the one before with its settings, or take it away.";
    RolledBack = "plugin.rolled_back", "A roll-back left this very version, or came while it was judged.",
        "`tidegate policy reload` if it is meant after all, or put another version there.";
    NotPlaced = "plugin.not_placed", "A promoted candidate could not be put into the plugins folder.",
        "Do what the message says, or put the files there by hand.";
    StartFailed = "plugin.start_failed", "The component passed, but its instances cannot be made now.",
        "Look at the gateway's log; memory or threads are short.";
}

// === impl Refusal ===

impl Refusal {
    pub(crate) fn new(code: RefusalCode, file: &str, message: impl Into<String>) -> Self {
        // Both hold words of those who wrote the file, and end up in logs and terminals.
        Self { code, file: printable(file), message: printable(&message.into()) }
    }
}

impl fmt::Display for RefusalCode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_page_of_refusals_lists_exactly_these_codes() {
        let page = include_str!("../../../../docs/policies/refusals.md");
        let row = |code: &RefusalCode| format!("| `{code}` | {} | {} |", code.cause(), code.remedy());
        let listed: Vec<&str> = page.lines().filter(|line| line.starts_with("| `")).collect();
        assert_eq!(listed, RefusalCode::ALL.iter().map(row).collect::<Vec<_>>());
    }
}
