//! The pages about what decides: the serving set with what the gate said of each attempt, what waits for a word, the
//! shadow, decisions and why. Asks the policies' side; changes nothing. Invariant: what names keys, people or tags is
//! for administrators.

use super::{
    Viewer,
    changes::SETTINGS_MAX,
    page, pages,
    views::{self, policies as pieces},
};
use crate::error::{Code, Error, Result};
use axum::{
    extract::{Path, Query, rejection::QueryRejection},
    http::StatusCode,
    response::Response,
};
use maud::{Markup, html};
use serde::Deserialize;
use tidegate_client::values;
use tidegate_policy::{DecisionId, Held, Last, Listing, Policy, Reading, Record, ShadowStatus, Window};

/// Decisions on one page.
const LISTED_DEFAULT: usize = 100;
const LISTED_MAX: usize = 1_000;
/// Characters of a question that are shown; a bulk question can have 100,000 tags.
const QUESTION_SHOWN: usize = 4_096;
/// Longest name or tag that is searched for.
const SEARCHED_MAX: usize = 1_024;

/// What of the log is asked for; everything is optional.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct Wanted {
    policy: String,
    who: String,
    tag: String,
    denied: String,
    last: String,
}

type Asked = std::result::Result<Query<Wanted>, QueryRejection>;

pub(super) async fn policies(viewer: Viewer) -> Response {
    let listing = viewer.dashboard.policies().host().list();
    let admin = viewer.is_admin();
    let button = |change: &str, words: &str| {
        html! {
            form.inline method="post" action={"/policies/" (change)} { (views::form_token(&viewer.signed_in)) (pieces::generation(&listing)) button { (words) } }
        }
    };
    let deciding = html! { @for row in &listing.policies {
        tr {
            th scope="row" { (row.policy.name()) }
            td { (row.name) " " (row.version) }
            td { (row.origin.to_string()) }
            td { (pieces::short(&row.digest.to_hex())) }
            td { (pieces::short(&row.settings_digest.to_hex())) }
            td { @match &row.signer { Some(signer) => (signer), None => span.quiet { "nobody" } } }
            td { (row.rules.join(", ")) }
        }
    } };
    let tried = html! { @for swap in listing.swaps.iter().rev() { (pieces::swap(swap, admin)) } };
    let body = html! {
        p { "Generation " strong { (listing.generation.0) } ", " (listing.live_generations) " live"
            @if listing.pinned.is_some() { ", " span.bad { "pinned: changes of the folder are not taken" } } }
        @if admin { p { a href="/shadow" { "Shadow" } ": a candidate on live questions. " a href="/decisions" { "Decisions" } ": what was decided, and why." } }
        (views::table("What decides", &["Policy", "Answered by", "From", "Digest", "Settings", "Signed by", "Rules"], None, &deciding))
        (waiting(&viewer, &listing))
        (views::table("What was tried, newest first", &["When", "Generation", "Outcome", "Set off by", "What", "Differs", "Gate", "Enforced after"], None, &tried))
        @if admin {
            (button("reload", "Look at the folder now"))
            @if listing.pinned.is_some() { (button("unpin", "Take changes of the folder again")) } @else { (button("pin", "Pin this generation")) }
            details {
                summary { "Roll back…" }
                form method="post" action="/policies/rollback" {
                    (views::form_token(&viewer.signed_in))
                    (pieces::generation(&listing))
                    p { "Goes back to the set before, on open streams too, and pins it. " (listing.earlier) " earlier sets can be reached." }
                    label { "Reason, kept in the record" input name="reason" required maxlength="200"; }
                    button disabled[listing.earlier == 0] { "Roll back" }
                }
            }
        }
    };
    page(StatusCode::OK, &views::frame("Policies", &viewer.signed_in, None, &body))
}

/// What the gate holds back, what was let in, what is refused for what it did.
fn waiting(viewer: &Viewer, listing: &Listing) -> Markup {
    let approve = |held: &Held| {
        html! { details {
            summary { "Approve…" }
            form method="post" action="/policies/approve" {
                (views::form_token(&viewer.signed_in))
                (pieces::generation(listing))
                input type="hidden" name="identity" value=(held.identity.to_hex());
                p { "Lets " (held.file) " serve with its settings, now and later." }
                label { "Reason, kept in the record" input name="reason" required maxlength="200"; }
                button { "Approve " (held.file) }
            }
        } }
    };
    let shadow = |held: &Held| {
        html! { details {
            summary { "Try as a shadow…" }
            form method="post" action="/shadow/start" {
                (views::form_token(&viewer.signed_in))
                input type="hidden" name="identity" value=(held.identity.to_hex());
                p { "Asks " (held.file) " what is really decided, and answers nobody. It takes the place of a shadow that runs." }
                button { "Start a shadow of " (held.file) }
            }
        } }
    };
    let held = html! { @for held in &listing.held {
        tr {
            th scope="row" { (held.file) }
            td { (pieces::short(&held.identity.to_hex())) }
            td { span.bad { (held.code.as_str()) } " " (held.message) }
            td { @if viewer.is_admin() { (approve(held)) (shadow(held)) } @else { "waits for an administrator" } }
        }
    } };
    let approved = html! { @for of in listing.approved.iter().rev() {
        tr { td { (values::show_unix_ms(of.at_ms as i64)) } td { (pieces::short(&of.identity)) } td { (of.reason) } }
    } };
    html! {
        @if !listing.held.is_empty() { (views::table("Held back by the gate", &["File", "Identity", "Why", "Approval"], None, &held)) }
        @if !listing.approved.is_empty() { (views::table("Approved before", &["When", "Identity", "Reason"], None, &approved)) }
        @if !listing.poisoned.is_empty() {
            p.bad { "Taken back for failing, and refused since: "
                @for of in &listing.poisoned { (pieces::short(&of.to_hex())) " " } }
        }
        @if !listing.pending.is_empty() { p { "Still being written: " (listing.pending.join(", ")) } }
    }
}

pub(super) async fn shadow(viewer: Viewer) -> Response {
    if !viewer.is_admin() {
        return pages::refused(&viewer, &pages::admins_only());
    }
    let body = match viewer.dashboard.policies().shadow().await {
        Ok(status) => of_shadow(&viewer, &status),
        Err(error) if error.code() == Code::PolicyNoShadow => html! {
            p { "There is no shadow. One that begins is asked what is really decided, and answers nobody." }
            (begin_shadow(&viewer))
        },
        Err(error) => return pages::refused(&viewer, &error),
    };
    page(StatusCode::OK, &views::frame("Shadow", &viewer.signed_in, None, &body))
}

/// The form that begins one of settings, to be opened first.
fn begin_shadow(viewer: &Viewer) -> Markup {
    html! {
        details {
            summary { "Start a shadow…" }
            form.stack method="post" action="/shadow/start" {
                (views::form_token(&viewer.signed_in))
                p { "Asks what decides now, with these settings instead of its own. It takes the place of a shadow that runs." }
                label { "Policy" select name="policy" { @for policy in Policy::ALL { option value=(policy.name()) { (policy.name()) } } } }
                label { "Settings, TOML; what is left out has its default"
                    textarea name="settings" rows="8" maxlength=(SETTINGS_MAX) spellcheck="false" required {} }
                button { "Start the shadow" }
            }
        }
        p.quiet {
            "What the gate holds back is tried from " a href="/policies" { "Policies" } ". Another component, on the gateway's machine: "
            code { "tidegate policy shadow start access.wasm" } ". No code is taken from a browser."
        }
    }
}

fn of_shadow(viewer: &Viewer, status: &ShadowStatus) -> Markup {
    let held = viewer.dashboard.policies().host().list().held.into_iter().any(|held| held.identity == status.identity);
    let answers: Vec<_> = status.policies.iter().map(|policy| policy.name()).collect();
    let compared = &status.compared;
    // Whoever promotes or stops means this one.
    let seen = html! { input type="hidden" name="identity" value=(status.identity.to_hex()); };
    html! {
        dl.facts {
            dt { "Candidate" } dd { (status.name) " " (status.version) " of " code { (status.file) } }
            dt { "Answers" } dd { (answers.join(", ")) }
            dt { "Identity" } dd { (pieces::short(&status.identity.to_hex())) }
            dt { "Since" } dd { (values::show_unix_ms(status.since_ms as i64)) }
            dt { "Compared with" } dd { @if status.generation == 0 { "nothing yet" } @else { "generation " (status.generation) } }
            dt { "State" } dd { @match &status.ended { Some(why) => span.bad { "ended: " (why) }, None => span.good { "being asked" } } }
            dt { "So far" } dd { (pieces::difference_words(compared)) "; " (compared.failed) " without an answer, " (compared.skipped + status.skipped) " not compared" }
        }
        @if held { p { "The gate holds it back: it serves when it is approved on " a href="/policies" { "Policies" } "." } }
        (pieces::changes("What it would answer otherwise", compared))
        details {
            summary { "Promote…" }
            form method="post" action="/shadow/promote" {
                (views::form_token(&viewer.signed_in))
                (seen)
                p { "Puts its files into the plugins folder and lets it serve, on open streams too." }
                label { "Of the compared answers may differ at most, percent" input name="most_percent" inputmode="decimal" required value="0.1"; }
                label { "Answers that must have been compared" input name="least_answers" inputmode="numeric" required value="100"; }
                button { "Promote" }
            }
        }
        details {
            summary { "Stop…" }
            form method="post" action="/shadow/stop" {
                (views::form_token(&viewer.signed_in))
                (seen)
                p { "What it was compared with is forgotten." }
                button { "Stop the shadow" }
            }
        }
        (begin_shadow(viewer))
    }
}

pub(super) async fn decisions(viewer: Viewer, wanted: Asked) -> Response {
    if !viewer.is_admin() {
        return pages::refused(&viewer, &pages::admins_only());
    }
    let wanted = wanted.map(|Query(wanted)| wanted).unwrap_or_default();
    let reading = match read(&viewer, wanted.window()).await {
        Ok(reading) => reading,
        Err(error) => return pages::refused(&viewer, &error),
    };
    let rows = html! { @for record in reading.records.iter().rev() {
        tr {
            th scope="row" { a href={"/decisions/" (record.id) (wanted.tag_query())} { code { (record.id) } } }
            td { (values::show_unix_ms(record.at_ms as i64)) }
            td { (record.policy().name()) }
            td { (record.who()) }
            td { (pieces::answer(record)) }
            td { (record.rule().unwrap_or_default()) }
        }
    } };
    let body = html! {
        (wanted.form())
        (views::table("Decisions, newest first", &["Decision", "When", "Policy", "About", "Answer", "Rule"], None, &rows))
        p.quiet {
            (reading.records.len()) " decisions"
            @if let Some(since) = reading.since_ms { ", looked back to " (values::show_unix_ms(since as i64)) }
            @if reading.lost > 0 { "; " (reading.lost) " are not in the log" }
            @if reading.damaged > 0 { "; " (reading.damaged) " lines are damaged" }
            "."
        }
    };
    page(StatusCode::OK, &views::frame("Decisions", &viewer.signed_in, None, &body))
}

pub(super) async fn decision(viewer: Viewer, Path(id): Path<String>, wanted: Asked) -> Response {
    if !viewer.is_admin() {
        return pages::refused(&viewer, &pages::admins_only());
    }
    let wanted = wanted.map(|Query(wanted)| wanted).unwrap_or_default();
    let found = async {
        let unknown = || Error::new(Code::DecisionUnknown, "the log has no decision of this id, or not any more");
        let id = DecisionId::parse(&id).ok_or_else(unknown)?;
        let window = Window { id: Some(id), last: Last::Count(1), ..Window::default() };
        read(&viewer, Ok(window)).await?.records.first().cloned().ok_or_else(unknown)
    };
    match found.await {
        Ok(record) => {
            let body = explained(&record, &wanted.tag);
            page(StatusCode::OK, &views::frame("Decision", &viewer.signed_in, None, &body))
        }
        Err(error) => pages::refused(&viewer, &error),
    }
}

fn explained(record: &Record, tag: &str) -> Markup {
    let item = (!tag.is_empty()).then(|| record.item(tag)).flatten();
    let cut = |text: String| match text.char_indices().nth(QUESTION_SHOWN) {
        Some((end, _)) => format!("{}…", &text[..end]),
        None => text,
    };
    html! {
        @for words in record.words() { p { (words) "." } }
        @if let Some((allow, rule)) = item { p { code { (tag) } " itself was " @if allow { "allowed" } @else { "denied" } " by " (rule) "." } }
        dl.facts {
            dt { "Decision" } dd { code { (record.id) } }
            dt { "When" } dd { (values::show_unix_ms(record.at_ms as i64)) }
            dt { "Policy" } dd { (record.policy().name()) ", generation " (record.facts.generation) }
            @if let Some(member) = record.member() {
                dt { "Answered by" } dd { (member.name) " " (member.version) " of " (member.file) ", " (pieces::short(&member.digest)) ", settings " (pieces::short(&member.settings_digest)) }
            }
            @if !record.session().is_empty() { dt { "Session" } dd { a href={"/sessions/" (record.session())} { (record.session()) } } }
            dt { "Answer" } dd { (pieces::answer(record)) @if !record.reason().is_empty() { ": " (record.reason()) } }
            dt { "Took" } dd { (record.took_ns / 1_000) " µs in the component" }
            dt { "Asked" } dd { code { (cut(record.question())) } }
            dt { "Answered" } dd { code { (cut(record.answer())) } }
        }
        p { a href="/decisions" { "All decisions" } }
    }
}

/// One at a time: the log can be some hundred megabytes.
async fn read(viewer: &Viewer, window: Result<Window>) -> Result<Reading> {
    let busy = || Error::new(Code::PolicyBusy, "the log is being read for somebody else; try again");
    let window = window?;
    let _turn = viewer.dashboard.log.try_acquire().map_err(|_| busy())?;
    viewer.dashboard.policies().apart(move |host| host.decisions(&window)).await
}

// === impl Wanted ===

impl Wanted {
    fn window(&self) -> Result<Window> {
        let wrong = |field, why: &str| Error::new(Code::RequestInvalid, why).with("field", field);
        if self.who.len() > SEARCHED_MAX || self.tag.len() > SEARCHED_MAX {
            return Err(wrong("who", "the text to search for is too long"));
        }
        let policy = match self.policy.as_str() {
            "" => None,
            name => {
                let known = Policy::ALL.into_iter().find(|policy| policy.name() == name);
                Some(known.ok_or_else(|| wrong("policy", "there is no policy of this name"))?)
            }
        };
        let count = match self.last.trim() {
            "" => LISTED_DEFAULT,
            text => text.parse().map_err(|_| wrong("last", "a number is needed"))?,
        };
        let some = |text: &str| (!text.trim().is_empty()).then(|| text.trim().to_owned());
        Ok(Window {
            last: Last::Count(count.clamp(1, LISTED_MAX)),
            denied: !self.denied.is_empty(),
            policy,
            who: some(&self.who),
            tag: some(&self.tag),
            id: None,
        })
    }

    /// So that a decision about many tags says what it said about this one.
    fn tag_query(&self) -> String {
        let plain = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'-' | b'_');
        let escaped: String = self
            .tag
            .bytes()
            .map(|byte| if plain(byte) { char::from(byte).to_string() } else { format!("%{byte:02X}") })
            .collect();
        if escaped.is_empty() { escaped } else { format!("?tag={escaped}") }
    }

    fn form(&self) -> Markup {
        let last = if self.last.trim().is_empty() { LISTED_DEFAULT.to_string() } else { self.last.clone() };
        html! {
            form.search method="get" action="/decisions" {
                label { "Policy" select name="policy" {
                    option value="" { "all" }
                    @for policy in Policy::ALL { option value=(policy.name()) selected[policy.name() == self.policy] { (policy.name()) } }
                } }
                label { "About (key, person, kind of node)" input name="who" value=(self.who) maxlength="128"; }
                label { "Tag" input name="tag" value=(self.tag) maxlength="1024"; }
                label { "At most" input name="last" value=(last) inputmode="numeric" maxlength="4"; }
                label.check { input type="checkbox" name="denied" value="yes" checked[!self.denied.is_empty()]; "Only what was denied" }
                button { "Search" }
            }
        }
    }
}
