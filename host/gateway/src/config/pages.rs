//! What is written about the settings: the commented example and the reference page, made out of the table. Knows no
//! value in force. Invariant: tests keep docs/tidegate.example.toml and docs/configuration.md equal to these.

use super::table::{Kind, Part, SETTINGS, Setting};
use std::fmt::Write as _;

const EXAMPLE_HEAD: &str = "\
# Every setting of a Tidegate gateway with its default. Made by `tidegate config example`.
# What stands here is overruled by variables (TIDEGATE_MAX_SESSIONS), and those by flags (--max-sessions).
# `tidegate config check FILE` reads a file and says everything that is wrong with it.
";

const REFERENCE_HEAD: &str = "\
# Configuration

Everything has a default: `tidegate serve` needs no configuration. What is set comes from four places, each overruling
the one before:

1. the default;
2. a file: `--config FILE` or `TIDEGATE_CONFIG`, else `tidegate.toml` in the data folder if there is one;
3. a variable: the key in capitals after `TIDEGATE_`, e.g. `TIDEGATE_MAX_SESSIONS`; an empty one says nothing, and one that
   is no setting is a warning in the log, because others name variables, too;
4. a flag: the key with hyphens, e.g. `--max-sessions`.

The file is TOML without sections: every key stands at the top level, as in
[the example](tidegate.example.toml), which holds every setting with its default. A backend may also be a table, `[[backend]]` with
`name`, `kind` and `settings`; what stands below such a table belongs to it, so it goes to the end of the file. A key that there is not is an error,
and so is a file that everybody may change. Whatever is wrong is told at once, each with its place: line of the file,
variable or flag. A list of a stronger place replaces the weaker one, it does not add to it.

```sh
tidegate config example > tidegate.toml     # every setting, commented
tidegate config check tidegate.toml         # is it valid? exit code 1 if not
tidegate config show --origin               # what is in force here, and where it came from
systemctl reload tidegate                   # read the file again; without systemd: kill -HUP and the gateway's own pid
```

## Changing a running gateway

SIGHUP reads the file again (with the variables and flags of the start) and looks at the plugins folder; a pin or a
roll-back of the policies stays (`tidegate policy reload` is the word against them). A file with an error
changes nothing: the log has the errors and the gateway serves on with what it had. The column `takes effect` says
what a change means for a running gateway. What needs a start is named in the log and left as it was until then.
";

/// `tidegate config example`.
pub fn example() -> String {
    let mut page = EXAMPLE_HEAD.to_owned();
    for part in Part::ALL {
        let _infallible = write!(page, "\n# --- {} ---\n", part.title());
        for setting in SETTINGS.iter().filter(|setting| setting.part == part) {
            page.push('\n');
            for line in wrapped(&sentence(setting)) {
                let _infallible = writeln!(page, "# {line}");
            }
            let _infallible = writeln!(page, "#{}", assignment(setting));
        }
    }
    page
}

/// `tidegate config reference`.
pub fn reference() -> String {
    let mut page = REFERENCE_HEAD.to_owned();
    for part in Part::ALL {
        let _infallible = write!(page, "\n## {}\n\n", part.title());
        page.push_str("| key | default | what | takes effect |\n|---|---|---|---|\n");
        for setting in SETTINGS.iter().filter(|setting| setting.part == part) {
            let default = match setting.default {
                "" => "none".to_owned(),
                default => format!("`{default}`"),
            };
            let what = sentence(setting).replace('|', "\\|");
            let takes = setting.takes.as_str();
            let _infallible = writeln!(page, "| `{}` | {default} | {what} | {takes} |", setting.key);
        }
    }
    page.push_str("\nMade by `cargo xtask docs configuration` from the table in `host/gateway/src/config/table.rs`.\n");
    page
}

fn sentence(setting: &Setting) -> String {
    match setting.bounds() {
        bounds if bounds.is_empty() => format!("{}.", setting.what),
        bounds => format!("{} ({bounds}).", setting.what),
    }
}

fn assignment(setting: &Setting) -> String {
    let key = setting.key;
    match setting.kind {
        Kind::Number(..) | Kind::Truth | Kind::Switch => format!("{key} = {}", setting.default),
        Kind::Backends => format!("{key} = [{:?}]", setting.default),
        Kind::Texts(_) => format!("{key} = [\"…\"]"),
        _ if setting.default.is_empty() => format!("{key} = \"…\""),
        _ => format!("{key} = {:?}", setting.default),
    }
}

fn wrapped(text: &str) -> Vec<String> {
    const COLUMNS: usize = 100;
    let mut lines = vec![String::new()];
    for word in text.split_whitespace() {
        let line = lines.last_mut().expect("never empty");
        if !line.is_empty() && line.len() + 1 + word.len() > COLUMNS {
            lines.push(word.to_owned());
        } else {
            if !line.is_empty() {
                line.push(' ');
            }
            line.push_str(word);
        }
    }
    lines
}
