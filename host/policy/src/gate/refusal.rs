//! Why a candidate was refused: a stable dotted code, the file, a sentence. Invariant: every code stands
//! in docs/policies/refusals.md.

use std::fmt;

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
    ($($variant:ident = $text:literal, $doc:literal;)*) => {
        /// The stable part of a refusal.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
        pub enum RefusalCode { $(#[doc = $doc] $variant,)* }

        impl RefusalCode {
            pub const ALL: &[RefusalCode] = &[$(RefusalCode::$variant,)*];

            /// The dotted text.
            pub const fn as_str(self) -> &'static str {
                match self { $(RefusalCode::$variant => $text,)* }
            }

            /// What makes it happen, a sentence.
            pub const fn cause(self) -> &'static str {
                match self { $(RefusalCode::$variant => $doc,)* }
            }
        }
    };
}

refusal_codes! {
    TooLarge = "plugin.too_large", "The file is larger than the limit.";
    Unreadable = "plugin.unreadable", "The file or the folder cannot be read.";
    WritableByOthers = "plugin.writable_by_others", "Group or others may write the file or the folder.";
    NotRegular = "plugin.not_regular", "The file is not a regular one (a pipe, a folder, a device).";
    OutsideFolder = "plugin.outside_folder", "A link leads out of the plugins folder.";
    TooMany = "plugin.too_many", "The folder holds more plugin files than the limit.";
    NotAComponent = "plugin.not_a_component", "The file is not a WebAssembly component.";
    CompileFailed = "plugin.compile_failed", "The component is malformed or cannot be compiled.";
    ImportForbidden = "plugin.import_forbidden", "The component imports something that policies are not given.";
    ContractUnknown = "plugin.contract_unknown", "The component keeps no version of the contract that is known here.";
    ContractMismatch = "plugin.contract_mismatch", "An export is missing or has other types than the contract's.";
    DescribeFailed = "plugin.describe_failed", "`describe` failed, or what it said is not usable.";
    ConfigureFailed = "plugin.configure_failed", "`configure` trapped or took too long.";
    SchemaInvalid = "plugin.schema_invalid", "The settings schema is not a JSON Schema of the supported kind.";
    SettingsInvalid = "plugin.settings_invalid", "The settings do not fit the schema, or the component refuses them.";
    SettingsMissing = "plugin.settings_missing", "Access settings that are in force were removed, the component was not.";
    ComponentMissing = "plugin.component_missing", "The component that answered access was removed, its settings were not.";
    VectorsMissing = "plugin.vectors_missing", "The component brings no usable vectors for a question it answers.";
    VectorFailed = "plugin.vector_failed", "The component answers a vector of its own otherwise than it says.";
    NotStateless = "plugin.not_stateless", "The component answers otherwise when asked again or in another order.";
    DuplicatePolicy = "plugin.duplicate_policy", "Two components answer the same question.";
    DigestMismatch = "plugin.digest_mismatch", "A file is not the one that generation.toml names.";
    GenerationInvalid = "plugin.generation_invalid", "generation.toml cannot be understood.";
    Unsigned = "plugin.unsigned", "There is no signature beside it, and only signed policies are taken here.";
    SignerUnknown = "plugin.signer_unknown", "It is signed, but by no key that is trusted here.";
    SignatureInvalid = "plugin.signature_invalid", "The signature is not of this component with these settings.";
    Held = "plugin.held", "It wants more imports than what it replaces; an operator has to approve it.";
    Differs = "plugin.differs", "It would have answered more of the latest questions otherwise than is allowed.";
    Poisoned = "plugin.poisoned", "This very component was taken back because it kept failing.";
    NotPlaced = "plugin.not_placed", "A promoted candidate could not be put into the plugins folder.";
    StartFailed = "plugin.start_failed", "The component passed, but its instances cannot be made now.";
}

// === impl Refusal ===

impl Refusal {
    pub(crate) fn new(code: RefusalCode, file: &str, message: impl Into<String>) -> Self {
        Self { code, file: file.to_owned(), message: message.into() }
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
        let row = |code: &RefusalCode| format!("| `{code}` | {} |", code.cause());
        let listed: Vec<&str> = page.lines().filter(|line| line.starts_with("| `")).collect();
        assert_eq!(listed, RefusalCode::ALL.iter().map(row).collect::<Vec<_>>());
    }
}
