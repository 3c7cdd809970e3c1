//! Rust text taken apart just far enough for the checks: code without comments and literals, comments by
//! line, words. Not a parser and not a tokeniser for macros' sake. Invariant: what stands inside a string is
//! never taken for code or for a comment, so that tests can plant violations as text.

/// One line: what is code in it, and the `//` comment that ends it.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Line {
    /// String and character literals are reduced to their quotes.
    pub(crate) code: String,
    /// From `//` on; empty when there is none. Block comments vanish.
    pub(crate) comment: String,
}

#[derive(Clone, Copy)]
enum State {
    Code,
    LineComment,
    BlockComment(u32),
    Text,
    RawText(usize),
}

pub(crate) fn lines(text: &str) -> Vec<Line> {
    let chars: Vec<char> = text.chars().collect();
    let at = |i: usize| chars.get(i).copied().unwrap_or('\0');
    let mut lines = vec![Line::default()];
    let mut state = State::Code;
    let mut i = 0;
    while i < chars.len() {
        let c = chars[i];
        if c == '\n' {
            if matches!(state, State::LineComment) {
                state = State::Code;
            }
            lines.push(Line::default());
            i += 1;
            continue;
        }
        let last = lines.len() - 1;
        let line = &mut lines[last];
        match state {
            State::Code if c == '/' && at(i + 1) == '/' => {
                state = State::LineComment;
                line.comment.push(c);
            }
            State::Code if c == '/' && at(i + 1) == '*' => {
                state = State::BlockComment(1);
                i += 1;
            }
            State::Code if c == '"' => {
                line.code.push('"');
                state = match raw_hashes(&line.code) {
                    Some(hashes) => State::RawText(hashes),
                    None => State::Text,
                };
            }
            // A character literal, as opposed to a lifetime.
            State::Code if c == '\'' && (at(i + 1) == '\\' || at(i + 2) == '\'') => {
                line.code.push_str("''");
                let mut end = if at(i + 1) == '\\' { i + 3 } else { i + 2 };
                while end < chars.len() && chars[end] != '\'' && chars[end] != '\n' {
                    end += 1;
                }
                i = end;
            }
            State::Code => line.code.push(c),
            State::LineComment => line.comment.push(c),
            State::BlockComment(depth) if c == '*' && at(i + 1) == '/' => {
                state = if depth == 1 { State::Code } else { State::BlockComment(depth - 1) };
                i += 1;
            }
            State::BlockComment(depth) if c == '/' && at(i + 1) == '*' => {
                state = State::BlockComment(depth + 1);
                i += 1;
            }
            State::BlockComment(_) => {}
            State::Text if c == '\\' && at(i + 1) != '\n' => i += 1,
            State::Text if c == '"' => {
                line.code.push('"');
                state = State::Code;
            }
            State::RawText(hashes) if c == '"' && (1..=hashes).all(|n| at(i + n) == '#') => {
                line.code.push('"');
                state = State::Code;
                i += hashes;
            }
            State::Text | State::RawText(_) => {}
        }
        i += 1;
    }
    lines
}

/// How many `#` stand between an `r` and the quote that ends `code`; None when it opens no raw string.
fn raw_hashes(code: &str) -> Option<usize> {
    let before = code.strip_suffix('"')?;
    let bare = before.trim_end_matches('#');
    let hashes = before.len() - bare.len();
    let prefix: String = bare.chars().rev().take_while(|c| is_word(*c)).collect();
    matches!(prefix.as_str(), "r" | "rb" | "rc").then_some(hashes)
}

pub(crate) fn is_word(c: char) -> bool {
    c.is_alphanumeric() || c == '_'
}

/// A word or a mark of the code, with its line (from 1). `::` is one mark.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Token {
    pub(crate) text: String,
    pub(crate) line: usize,
}

pub(crate) fn tokens(text: &str) -> Vec<Token> {
    let mut tokens: Vec<Token> = Vec::new();
    for (n, line) in lines(text).iter().enumerate() {
        let mut rest = line.code.chars().peekable();
        while let Some(c) = rest.next() {
            let mut text = String::from(c);
            if is_word(c) {
                while let Some(next) = rest.next_if(|c| is_word(*c)) {
                    text.push(next);
                }
            } else if c == ':' && rest.next_if_eq(&':').is_some() {
                text.push(':');
            } else if c.is_whitespace() {
                continue;
            }
            tokens.push(Token { text, line: n + 1 });
        }
    }
    tokens
}

#[cfg(test)]
mod tests {
    use super::*;

    fn code(text: &str) -> String {
        lines(text).iter().map(|line| line.code.as_str()).collect::<Vec<_>>().join("\n")
    }

    #[test]
    fn literals_and_comments_are_not_code() {
        assert_eq!(code("let a = \"x // y\"; // z"), "let a = \"\"; ");
        assert_eq!(code("let a = r#\"x \" y\"#; b"), "let a = r#\"\"; b");
        assert_eq!(code("/* a /* b */ c */ d"), " d");
        assert_eq!(
            code("let q = '\"'; let b = '\\''; fn f<'a>(x: &'a str) {}"),
            "let q = ''; let b = ''; fn f<'a>(x: &'a str) {}"
        );
        assert_eq!(code("a(\"\\\\\"); b"), "a(\"\"); b");
        assert_eq!(code("a(\"one\n// two\n\"); b"), "a(\"\n\n\"); b");
    }

    #[test]
    fn comments_keep_their_line() {
        let found = lines("a\n    // shows: S-01\nfn b() {} // c");
        assert_eq!(found[1].comment, "// shows: S-01");
        assert_eq!(found[2].comment, "// c");
        assert!(lines("let planted = \"\n// shows: S-01\n\";").iter().all(|line| line.comment.is_empty()));
    }

    #[test]
    fn tokens_join_words_and_paths() {
        let found: Vec<_> = tokens("use crate::{a, b};\nx").into_iter().map(|t| (t.text, t.line)).collect();
        let want = ["use", "crate", "::", "{", "a", ",", "b", "}", ";"];
        assert_eq!(found[..9], want.map(|t| (t.to_owned(), 1)));
        assert_eq!(found[9], ("x".to_owned(), 2));
    }
}
