//! A browser, without one: requests with a cookie, forms, the stream of an open page; and people who sign in. Knows
//! HTTP/1.1 as far as the dashboard speaks it.

use super::{Gateway, PATIENCE};
use std::fs;
use tidegate_client::{Connect, PeopleAdmin, wire::PutPersonRequest};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
    time::{Instant, timeout, timeout_at},
};

/// What a page answered.
pub(crate) struct Answer {
    pub(crate) status: u16,
    pub(crate) head: String,
    pub(crate) body: String,
}

/// A browser with at most one cookie.
pub(crate) struct Browser {
    http: String,
    cookie: String,
}

/// An open stream of a page.
pub(crate) struct Stream {
    io: TcpStream,
    text: String,
}

// === impl Browser ===

impl Browser {
    pub(crate) fn of(gw: &Gateway) -> Self {
        let text = fs::read_to_string(gw.data().join("addresses.json")).expect("addresses");
        let addresses: serde_json::Value = serde_json::from_str(&text).expect("JSON");
        Self { http: addresses["http"].as_str().expect("an address").to_owned(), cookie: String::new() }
    }

    pub(crate) async fn signed_in(gw: &Gateway, name: &str) -> Self {
        let mut browser = Self::of(gw);
        browser.sign_in(name).await;
        browser
    }

    /// As it does it a second time, too: with the cookie that it has.
    pub(crate) async fn sign_in(&mut self, name: &str) {
        let answer = self.post("/sign-in", &format!("name={name}&password=correct+horse")).await;
        assert_eq!((answer.status, answer.header("location")), (303, Some("/")), "{}", answer.head);
        let cookie = answer.header("set-cookie").expect("a cookie").to_owned();
        for attribute in ["HttpOnly", "SameSite=Strict", "Path=/"] {
            assert!(cookie.contains(attribute), "{cookie}");
        }
        self.cookie = cookie.split(';').next().expect("a value").to_owned();
    }

    /// The cookie, as it is sent.
    pub(crate) fn cookie(&self) -> &str {
        &self.cookie
    }

    pub(crate) async fn get(&self, path: &str) -> Answer {
        self.send("GET", path, "", "").await
    }

    pub(crate) async fn post(&self, path: &str, form: &str) -> Answer {
        self.send("POST", path, &format!("Origin: http://{}\r\n", self.http), form).await
    }

    pub(crate) async fn send(&self, method: &str, path: &str, more: &str, form: &str) -> Answer {
        let mut io = self.begin(method, path, more, form).await;
        let mut answer = String::new();
        timeout(PATIENCE, io.read_to_string(&mut answer)).await.expect("in time").expect("text");
        let (head, body) = answer.split_once("\r\n\r\n").expect("a head");
        let status = head.split(' ').nth(1).and_then(|number| number.parse().ok()).expect("a status");
        Answer { status, head: head.to_owned(), body: body.to_owned() }
    }

    async fn begin(&self, method: &str, path: &str, more: &str, form: &str) -> TcpStream {
        let Self { http, cookie } = self;
        let request = format!(
            "{method} {path} HTTP/1.1\r\nHost: {http}\r\nConnection: close\r\nCookie: {cookie}\r\n{more}\
             Content-Type: application/x-www-form-urlencoded\r\nContent-Length: {}\r\n\r\n{form}",
            form.len()
        );
        let mut io = TcpStream::connect(http).await.expect("the HTTP listener answers");
        io.write_all(request.as_bytes()).await.expect("sent");
        io
    }

    /// The token that forms of a page carry.
    pub(crate) async fn form_token(&self, page: &str) -> String {
        self.field(page, "form_token").await
    }

    /// What a form of a page carries under this name.
    pub(crate) async fn field(&self, page: &str, name: &str) -> String {
        let body = self.get(page).await.body;
        let (_, rest) = body.split_once(&format!("name=\"{name}\" value=\"")).expect("a form with this field");
        rest.split('"').next().expect("a value").to_owned()
    }

    /// The stream of a session's page, or of the first one.
    pub(crate) async fn live(&self, session: &str) -> Stream {
        self.live_of(if session.is_empty() { "overview" } else { "session" }, session).await
    }

    pub(crate) async fn live_of(&self, page: &str, session: &str) -> Stream {
        let token: serde_json::Value =
            serde_json::from_str(&self.get("/live/token").await.body).expect("a token as JSON");
        self.live_with(token["token"].as_str().expect("a token"), page, session).await
    }

    pub(crate) async fn live_with(&self, token: &str, page: &str, session: &str) -> Stream {
        // Without the cookie: the token alone is the right to this stream.
        let nobody = Self { http: self.http.clone(), cookie: String::new() };
        let io = nobody.begin("GET", &format!("/live?token={token}&page={page}&session={session}"), "", "").await;
        Stream { io, text: String::new() }
    }
}

impl Answer {
    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        self.head.lines().find_map(|line| {
            let (key, value) = line.split_once(": ")?;
            key.eq_ignore_ascii_case(name).then_some(value)
        })
    }
}

impl Stream {
    /// Reads until `wanted` came; returns what came before it, and keeps what came after.
    pub(crate) async fn until(&mut self, wanted: &str) -> String {
        let deadline = Instant::now() + PATIENCE;
        loop {
            if let Some(at) = self.text.find(wanted) {
                let rest = self.text.split_off(at + wanted.len());
                return std::mem::replace(&mut self.text, rest);
            }
            let mut piece = vec![0; 64 << 10];
            let read = timeout_at(deadline, self.io.read(&mut piece)).await;
            let read = read.unwrap_or_else(|_| panic!("{wanted} did not come: {}", self.text)).expect("readable");
            assert!(read > 0, "the stream ended without {wanted}: {}", self.text);
            self.text.push_str(&String::from_utf8_lossy(&piece[..read]));
        }
    }

    pub(crate) async fn ends(mut self) {
        let mut rest = Vec::new();
        let ended = timeout(PATIENCE, self.io.read_to_end(&mut rest)).await;
        ended.expect("it ends in time").expect("readable");
    }
}

pub(crate) async fn people(gw: &Gateway) -> PeopleAdmin {
    Connect::socket(gw.data().join("admin.sock")).people_admin().await.expect("the operators' socket answers")
}

/// Somebody whose password is `correct horse`.
pub(crate) async fn add(gw: &Gateway, name: &str, role: &str, groups: &[&str]) {
    let groups = groups.iter().map(|group| (*group).to_owned()).collect();
    let request = PutPersonRequest { name: name.into(), role: role.into(), groups, password: "correct horse".into() };
    people(gw).await.put(request).await.expect("stored");
}
