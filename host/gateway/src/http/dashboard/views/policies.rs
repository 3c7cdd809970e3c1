//! The pieces of pages about policies: an attempt to change them, a difference, an answer. Knows how they look, asks
//! nobody.

use super::table;
use maud::{Markup, html};
use tidegate_client::values;
use tidegate_policy::{Change, Comparison, Listing, Record, SwapRecord};

/// The beginning of a digest; the whole of it is its title.
pub(in super::super) fn short(digest: &str) -> Markup {
    html! { code title=(digest) { (digest.get(..12).unwrap_or(digest)) } }
}

/// In a form that changes what serves: what its page showed.
pub(in super::super) fn generation(listing: &Listing) -> Markup {
    html! { input type="hidden" name="generation" value=(listing.generation.0); }
}

/// One attempt to change the policies. `whole`: with whom it would have hit.
pub(in super::super) fn swap(swap: &SwapRecord, whole: bool) -> Markup {
    html! {
        tr {
            td.number { (values::show_unix_ms(swap.at_ms as i64)) }
            td.number { (swap.to.0) }
            td { @match swap.code { Some(code) => span.bad { "refused: " (code.as_str()) }, None => (crate::policies::outcome(swap).as_str()) } }
            td { (swap.trigger.as_str()) }
            td {
                @if swap.refusals.is_empty() { (swap.files.join(", ")) @if !swap.message.is_empty() { " " span.quiet { (swap.message) } } }
                @for refusal in &swap.refusals {
                    div { (refusal.file) " " span.quiet { (refusal.message) " " (refusal.code.remedy()) } }
                }
                @if swap.refusals_more > 0 { div.quiet { "and " (swap.refusals_more) " files more" } }
            }
            td { @match &swap.difference {
                Some(of) if of.asked > 0 => { (difference_words(of)) @if whole && of.changed > 0 {
                    details { summary { "Whom" } ul { @for change in &of.changes { li { (change_words(change)) } } } }
                } }
                _ => { span.quiet { "not compared" } }
            } }
            td.number { (swap.gate_us / 1000) " ms" }
            td.number { @if let Some(us) = swap.enforced_us { (us) " µs" } }
        }
    }
}

pub(in super::super) fn difference_words(of: &Comparison) -> String {
    let percent = if of.asked == 0 { 0.0 } else { of.changed as f64 * 100.0 / of.asked as f64 };
    format!("{} of {} answers would be others ({percent:.2} %)", of.changed, of.asked)
}

/// Whom and which rule a candidate would hit.
pub(in super::super) fn changes(caption: &str, of: &Comparison) -> Markup {
    let rows = html! { @for change in &of.changes {
        tr {
            th scope="row" { (change.policy.name()) }
            td { (change.who) }
            td { (by(&change.was, &change.was_rule)) }
            td { (by(&change.is, &change.is_rule)) }
            td.number { (change.count) }
            td { a href={"/decisions/" (change.example)} { code { (change.example) } } " " (change.tag) }
        }
    } };
    html! {
        @if of.changes.is_empty() { p.quiet { "Nothing so far." } }
        @else { (table(caption, &["Policy", "About", "Was", "Would be", "How often", "For example"], None, &rows)) }
        @if of.more > 0 { p.quiet { "And " (of.more) " answers beyond these rows." } }
    }
}

/// What a component said, or that it said nothing.
pub(in super::super) fn answer(record: &Record) -> Markup {
    html! {
        @match (record.cause, record.denied()) {
            (Some(cause), _) => span.bad { (cause.as_str()) },
            (None, true) => span.bad { "denied" },
            (None, false) => { "passed" },
        }
    }
}

fn change_words(of: &Change) -> String {
    let (was, is) = (by(&of.was, &of.was_rule), by(&of.is, &of.is_rule));
    let tag = if of.tag.is_empty() { String::new() } else { format!(", e.g. {}", of.tag) };
    format!("{} for {}: was {was}, would be {is}, {} times{tag}", of.policy.name(), of.who, of.count)
}

fn by(what: &str, rule: &str) -> String {
    if rule.is_empty() { what.to_owned() } else { format!("{what} by {rule}") }
}
