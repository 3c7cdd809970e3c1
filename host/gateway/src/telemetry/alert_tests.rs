//! The pages for operators against the code: every metric is watched or said not to need it, every alert and every panel
//! names metrics that exist, every alert a runbook that is there, and every part that can be degraded has one.

use super::METRICS;
use crate::health::PARTS;
use std::{collections::BTreeSet, fs, path::Path};

struct Rule {
    alert: String,
    expr: String,
    runbook: String,
}

fn page(name: &str) -> String {
    fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs").join(name)).expect("a page")
}

/// As much of YAML as the file uses: a rule begins with its alert, a field has a line.
fn rules(text: &str) -> Vec<Rule> {
    let mut rules: Vec<Rule> = Vec::new();
    for line in text.lines() {
        if let Some(alert) = line.strip_prefix("      - alert: ") {
            rules.push(Rule { alert: alert.to_owned(), expr: String::new(), runbook: String::new() });
            continue;
        }
        let Some(rule) = rules.last_mut() else { continue };
        if let Some(expr) = line.strip_prefix("        expr: ") {
            rule.expr = expr.to_owned();
        } else if let Some((_, runbook)) = line.split_once("runbook: \"operating.md#") {
            rule.runbook = runbook.trim_end_matches([' ', '}', '"']).to_owned();
        } else {
            let known = ["        for: ", "        labels: { severity: ", "        annotations: "];
            assert!(known.iter().any(|field| line.starts_with(field)), "not a line of a rule: {line:?}");
        }
    }
    rules
}

/// Names in an expression that are metrics, as the exposition writes them.
fn named(expr: &str) -> BTreeSet<&str> {
    let words = expr.split(|letter: char| !letter.is_ascii_alphanumeric() && letter != '_');
    words.filter(|word| word.starts_with("tidegate_")).collect()
}

/// How samples of a metric are called.
fn sample(name: &str, kind: &str) -> String {
    match kind {
        "counter" => format!("{name}_total"),
        "histogram" => format!("{name}_bucket"),
        _ => name.to_owned(),
    }
}

fn anchors(page: &str) -> BTreeSet<String> {
    let headings = page.lines().filter_map(|line| line.strip_prefix('#'));
    headings.map(|heading| heading.trim_start_matches('#').trim().to_lowercase().replace(' ', "-")).collect()
}

fn table(page: &str) -> Vec<(String, String)> {
    let rows = page
        .split("<!-- table: metrics -->")
        .nth(1)
        .expect("a table")
        .lines()
        .skip_while(|line| !line.starts_with('|'));
    rows.take_while(|line| line.starts_with('|'))
        .skip(2)
        .map(|row| {
            let mut cells = row.trim_matches('|').split('|').map(str::trim);
            let metric = cells.next().unwrap_or_default().trim_matches('`').to_owned();
            (metric, cells.next().unwrap_or_default().to_owned())
        })
        .collect()
}

#[test]
fn every_metric_is_watched_or_said_not_to_need_it() {
    let (page, rules) = (page("operating.md"), rules(&page("alerts.yml")));
    let table = table(&page);
    let listed: BTreeSet<&str> = table.iter().map(|(metric, _)| metric.as_str()).collect();
    let there: BTreeSet<&str> = METRICS.iter().map(|row| row.name).collect();
    assert_eq!(listed, there, "the table of docs/operating.md and the metrics");
    let mut watched = BTreeSet::from(["TidegateDown"]);
    for (metric, answer) in &table {
        if let Some(reason) = answer.strip_prefix("none:") {
            assert!(!reason.trim().is_empty(), "{metric}: why does it need no alert?");
            continue;
        }
        let alert = answer.split(',').next().unwrap_or_default().trim();
        let rule = rules.iter().find(|rule| rule.alert == alert);
        let rule = rule.unwrap_or_else(|| panic!("{metric}: docs/alerts.yml has no {alert:?}"));
        assert!(rule.expr.contains(metric.as_str()), "{alert} does not look at {metric}");
        watched.insert(rule.alert.as_str());
    }
    let defined: BTreeSet<&str> = rules.iter().map(|rule| rule.alert.as_str()).collect();
    assert_eq!(defined, watched, "alerts, and those that the table names");
    assert_eq!(defined.len(), rules.len(), "an alert is there twice");
}

#[test]
fn every_alert_looks_at_samples_that_exist_and_has_a_runbook() {
    let samples: BTreeSet<String> = METRICS.iter().map(|row| sample(row.name, row.kind)).collect();
    let anchors = anchors(&page("operating.md"));
    for rule in rules(&page("alerts.yml")) {
        for name in named(&rule.expr) {
            assert!(samples.contains(name), "{}: there are no samples of {name}", rule.alert);
        }
        assert!(anchors.contains(&rule.runbook), "{}: no runbook {:?}", rule.alert, rule.runbook);
    }
}

/// Every text under a key of this name, wherever it is.
fn texts<'j>(json: &'j serde_json::Value, key: &str, found: &mut Vec<&'j str>) {
    match json {
        serde_json::Value::Object(fields) => {
            for (name, value) in fields {
                found.extend(value.as_str().filter(|_| name == key));
                texts(value, key, found);
            }
        }
        serde_json::Value::Array(values) => values.iter().for_each(|value| texts(value, key, found)),
        _ => {}
    }
}

#[test]
fn every_panel_of_the_grafana_dashboard_asks_for_samples_and_labels_that_exist() {
    let json: serde_json::Value = serde_json::from_str(&page("grafana.json")).expect("JSON");
    let samples: BTreeSet<String> = METRICS.iter().map(|row| sample(row.name, row.kind)).collect();
    let labels = |name: &str| {
        let row = METRICS.iter().find(|row| sample(row.name, row.kind) == name).expect("a metric");
        row.labels.split(',').chain(["job", "instance", "le"]).collect::<BTreeSet<_>>()
    };
    let panels = json["panels"].as_array().expect("panels");
    let mut places = BTreeSet::new();
    let mut asked = BTreeSet::new();
    for panel in panels {
        let title = panel["title"].as_str().expect("a title");
        let place = &panel["gridPos"];
        assert!(places.insert((place["x"].as_u64(), place["y"].as_u64())), "{title} stands on another panel");
        let (mut exprs, mut legends) = (Vec::new(), Vec::new());
        texts(panel, "expr", &mut exprs);
        texts(panel, "legendFormat", &mut legends);
        assert_eq!(exprs.is_empty(), panel["type"] == "row", "{title}");
        for (expr, legend) in exprs.iter().zip(&legends) {
            let names = named(expr);
            assert!(!names.is_empty(), "{title} asks for nothing of ours: {expr}");
            let grouped = expr.split(" by (").skip(1).filter_map(|rest| rest.split(')').next());
            let shown = legend.split("{{").skip(1).filter_map(|rest| rest.split("}}").next());
            let used: BTreeSet<&str> = grouped.flat_map(|list| list.split(',')).chain(shown).map(str::trim).collect();
            for name in &names {
                assert!(samples.contains(*name), "{title}: there are no samples of {name}");
            }
            for label in used {
                assert!(names.iter().any(|name| labels(name).contains(label)), "{title}: nothing has a label {label}");
            }
            asked.extend(names);
        }
    }
    // Most of the table is shown.
    assert!(asked.len() * 3 > METRICS.len() * 2, "{} of {} metrics are shown", asked.len(), METRICS.len());
    for query in json["templating"]["list"].as_array().expect("variables") {
        for name in named(query["query"].as_str().expect("a query")) {
            assert!(samples.contains(name), "a variable asks for {name}");
        }
    }
}

#[test]
fn every_part_that_can_be_degraded_has_a_runbook() {
    let page = page("operating.md");
    for part in PARTS {
        let heading = format!("#### {part}");
        assert!(page.lines().any(|line| line == heading || line.starts_with(&format!("{heading} "))), "no {heading}");
    }
}
