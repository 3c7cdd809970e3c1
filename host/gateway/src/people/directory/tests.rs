//! The directory as a gateway asks it: escaping, roles, files, and conversations with a server on the loopback that
//! says what a test has it say.

use super::*;
use crate::config::{ServeArgs, ServeConfig};
use ldap3::asn1::{PL, StructureTag, parse_tag};
use parking_lot::Mutex;
use std::sync::Arc;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{TcpListener, TcpStream},
};

fn settings(more: &[(&str, &str)]) -> DirectorySettings {
    let flags = [&[("ldap_url", "ldap://127.0.0.1:1"), ("ldap_starttls", "false")], more].concat();
    ServeConfig::load(&ServeArgs::of(&flags)).expect("valid").directory.expect("a directory")
}

fn groups(names: &[&str]) -> Vec<String> {
    names.iter().map(|name| (*name).to_owned()).collect()
}

// shows: H-02
#[test]
fn what_was_typed_stays_a_value_in_names_and_filters() {
    let filter = "(&(objectClass=person)(uid={name}))";
    for (typed, filled) in [
        ("ada", "(&(objectClass=person)(uid=ada))"),
        ("*", "(&(objectClass=person)(uid=\\2a))"),
        ("*)(uid=*", "(&(objectClass=person)(uid=\\2a\\29\\28uid=\\2a))"),
        ("a\\b\0", "(&(objectClass=person)(uid=a\\5cb\\00))"),
        // What is put in is not a template.
        ("{dn}{name}", "(&(objectClass=person)(uid={dn}{name}))"),
    ] {
        let made = fill(filter, &ldap_escape(typed), "never");
        assert_eq!(made, filled);
        assert!(parse_filter(&made).is_ok(), "{made}");
    }
    for (typed, filled) in [
        ("ada", "uid=ada,dc=x"),
        ("ada,ou=admins", "uid=ada\\2cou\\3dadmins,dc=x"),
        (" #a+b", "uid=\\20#a\\2bb,dc=x"),
        ("a\"<>;\\", "uid=a\\22\\3c\\3e\\3b\\5c,dc=x"),
    ] {
        assert_eq!(fill("uid={name},dc=x", &dn_escape(typed), ""), filled);
    }
}

// shows: H-02
#[test]
fn roles_follow_from_groups_whatever_their_case() {
    let open = settings(&[("ldap_bind", "uid={name},dc=x"), ("ldap_admin_groups", "Ops, night shift")]);
    assert_eq!(role(&open, &groups(&["crew", "OPS"])), Some(Role::Admin));
    assert_eq!(role(&open, &groups(&["night shift"])), Some(Role::Admin));
    assert_eq!(role(&open, &groups(&["ops2"])), Some(Role::Viewer));
    assert_eq!(role(&open, &[]), Some(Role::Viewer));
    let closed = settings(&[("ldap_bind", "uid={name},dc=x"), ("ldap_viewer_groups", "crew")]);
    assert_eq!(role(&closed, &groups(&["Crew"])), Some(Role::Viewer));
    assert_eq!(role(&closed, &groups(&["ops", ""])), None);
    assert_eq!(role(&closed, &[]), None);
}

#[test]
fn a_group_is_named_by_the_first_part_of_its_name() {
    assert_eq!(first_part("CN=crew,OU=groups,DC=plant").as_deref(), Some("crew"));
    assert_eq!(first_part("cn = night shift , ou=x").as_deref(), Some("night shift"));
    for odd in ["", "crew", "cn=", "cn=a\\2cb,dc=x", "cn=a+ou=b,dc=x", "cn=#0401,dc=x"] {
        assert_eq!(first_part(odd), None, "{odd}");
    }
}

#[test]
fn files_and_filters_are_looked_at_before_anybody_signs_in() {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("password");
    let file = path.display().to_string();
    let search = [
        ("ldap_search_base", "dc=x"),
        ("ldap_search_dn", "cn=reader,dc=x"),
        ("ldap_search_password_file", file.as_str()),
    ];
    let refused = |flags: &[(&str, &str)]| {
        let error = Directory::new(settings(flags)).expect_err("refused");
        assert!(!error.to_string().contains("hunter2"), "{error}");
        error.message().to_owned()
    };
    assert!(refused(&search).contains("cannot be read"));
    fs::write(&path, "hunter2\n").expect("written");
    fs::set_permissions(&path, fs::Permissions::from_mode(0o640)).expect("mode");
    assert!(refused(&search).contains("chmod 600"));
    fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).expect("mode");
    let made = Directory::new(settings(&search)).expect("made");
    assert_eq!(made.account, Some(("cn=reader,dc=x".into(), "hunter2".into())));
    assert!(!format!("{made:?}").contains("hunter2"));
    fs::write(&path, "\nhunter2").expect("written");
    assert!(refused(&search).contains("empty"));
    assert!(refused(&[("ldap_search_base", "dc=x"), ("ldap_search_filter", "(uid={name}")]).contains("no filter"));
}

#[tokio::test]
async fn an_empty_password_is_never_sent() {
    // Nobody listens there: whoever asked would hear of trouble.
    let directory = Directory::new(settings(&[("ldap_bind", "uid={name},dc=x")])).expect("made");
    assert_eq!(directory.sign_in("ada", "").await.expect("an answer"), None);
    assert_eq!(directory.sign_in("", "secret").await.expect("an answer"), None);
    let error = directory.sign_in("ada", "secret").await.expect_err("nobody answers");
    assert_eq!(error.code(), Code::SignInDirectory);
}

/// As much of a directory as a sign-in asks for.
#[derive(Clone, Copy, Debug)]
enum Server {
    Sound,
    /// Everything but a bind is refused.
    Refusing,
    /// Entries without an end.
    Endless,
    Garbage,
}

/// What clients bound as.
type Bound = Arc<Mutex<Vec<(String, String)>>>;

const ADA: &str = "uid=ada,ou=people,dc=x";
const BEN: &str = "uid=ben,ou=people,dc=x";

impl Server {
    async fn start(self) -> (String, Bound) {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let url = format!("ldap://{}", listener.local_addr().expect("an address"));
        let bound = Bound::default();
        let seen = bound.clone();
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                tokio::spawn(self.converse(stream, seen.clone()));
            }
        });
        (url, bound)
    }

    async fn converse(self, mut stream: TcpStream, bound: Bound) -> Option<()> {
        let mut buffer = Vec::new();
        loop {
            let message = loop {
                if let Ok((rest, tag)) = parse_tag(&buffer) {
                    buffer = rest.to_vec();
                    break tag;
                }
                (stream.read_buf(&mut buffer).await.ok()? > 0).then_some(())?;
            };
            let mut parts = constructed(message).into_iter();
            let (id, op) = (primitive(parts.next()?), parts.next()?);
            match self {
                Self::Garbage => stream.write_all(b"HTTP/1.1 400 Bad Request\r\n\r\n").await.ok()?,
                _ if op.id == 0 => {
                    let fields: Vec<Vec<u8>> = constructed(op).into_iter().map(primitive).collect();
                    let [_, dn, password] = fields.try_into().ok()?;
                    let (dn, password) = (text(dn), text(password));
                    let right = matches!((&*dn, &*password), (ADA, "correct horse") | (BEN, "battery staple"));
                    bound.lock().push((dn, password));
                    answer(&mut stream, &id, &result(0x61, if right { 0 } else { 49 })).await?;
                }
                Self::Refusing => answer(&mut stream, &id, &result(0x65, 50)).await?,
                Self::Endless => loop {
                    answer(&mut stream, &id, &entry("cn=more,dc=x", "more")).await?;
                },
                Self::Sound => {
                    let asked = format!("{op:?}");
                    let is_ada = asked.contains(&format!("{:?}", ADA.as_bytes()));
                    for group in if is_ada { &["Ops", "crew"][..] } else { &["crew", ""] } {
                        answer(&mut stream, &id, &entry("cn=x,dc=x", group)).await?;
                    }
                    answer(&mut stream, &id, &result(0x65, 0)).await?;
                }
            }
        }
    }
}

fn constructed(tag: StructureTag) -> Vec<StructureTag> {
    match tag.payload {
        PL::C(parts) => parts,
        PL::P(_) => Vec::new(),
    }
}

fn primitive(tag: StructureTag) -> Vec<u8> {
    match tag.payload {
        PL::P(bytes) => bytes,
        PL::C(_) => Vec::new(),
    }
}

fn text(bytes: Vec<u8>) -> String {
    String::from_utf8(bytes).expect("text")
}

/// A tag of BER with what is in it; short lengths only.
fn ber(tag: u8, parts: &[&[u8]]) -> Vec<u8> {
    let content = parts.concat();
    let length = u8::try_from(content.len()).ok().filter(|length| *length < 128).expect("short");
    [&[tag, length][..], &content].concat()
}

fn result(tag: u8, code: u8) -> Vec<u8> {
    ber(tag, &[&[0x0a, 1, code], &ber(4, &[]), &ber(4, &[])])
}

fn entry(dn: &str, group: &str) -> Vec<u8> {
    let attribute = ber(0x30, &[&ber(4, &[b"CN"]), &ber(0x31, &[&ber(4, &[group.as_bytes()])])]);
    ber(0x64, &[&ber(4, &[dn.as_bytes()]), &ber(0x30, &[&attribute])])
}

async fn answer(stream: &mut TcpStream, id: &[u8], op: &[u8]) -> Option<()> {
    stream.write_all(&ber(0x30, &[&ber(2, &[id]), op])).await.ok()
}

async fn asking(server: Server) -> (Directory, Bound) {
    let (url, bound) = server.start().await;
    let flags = [
        ("ldap_url", url.as_str()),
        ("ldap_starttls", "false"),
        ("ldap_bind", "uid={name},ou=people,dc=x"),
        ("ldap_group_base", "ou=groups,dc=x"),
        ("ldap_admin_groups", "ops"),
        ("ldap_viewer_groups", "crew"),
        ("ldap_timeout_seconds", "30"),
    ];
    let settings = ServeConfig::load(&ServeArgs::of(&flags)).expect("valid").directory.expect("a directory");
    (Directory::new(settings).expect("made"), bound)
}

// shows: H-02
#[tokio::test]
async fn people_of_a_directory_sign_in_with_the_role_of_their_groups() {
    let (directory, bound) = asking(Server::Sound).await;
    let ada = directory.sign_in("Ada", "correct horse").await.expect("an answer");
    // The server knows no case; this one does, so the name as typed is nobody's.
    assert_eq!(ada, None);
    let ada = directory.sign_in("ada", "correct horse").await.expect("an answer").expect("ada");
    assert_eq!((&*ada.name, ada.role, ada.source), ("ada", Role::Admin, Source::Directory));
    assert_eq!(*ada.groups, ["Ops", "crew"]);
    let ben = directory.sign_in("ben", "battery staple").await.expect("an answer").expect("ben");
    assert_eq!((ben.role, &*ben.groups), (Role::Viewer, &["crew".to_owned()][..]));
    for (name, password) in [("ben", "correct horse"), ("ada,ou=people", "correct horse"), ("*", "correct horse")] {
        assert_eq!(directory.sign_in(name, password).await.expect("an answer"), None, "{name}");
    }
    assert_eq!(directory.sign_in("ada", "").await.expect("an answer"), None);
    let bound = bound.lock();
    assert!(bound.iter().all(|(_, password)| !password.is_empty()), "nobody binds as nobody");
    assert!(bound.iter().any(|(dn, _)| dn == "uid=ada\\2cou\\3dpeople,ou=people,dc=x"), "{bound:?}");
}

#[tokio::test]
async fn a_directory_that_does_not_say_what_it_should_lets_nobody_in_and_is_not_listened_to_for_ever() {
    for server in [Server::Refusing, Server::Garbage] {
        let (directory, _) = asking(server).await;
        let error = directory.sign_in("ada", "correct horse").await.expect_err("no answer");
        assert_eq!(error.code(), Code::SignInDirectory, "{server:?}");
    }
    let (directory, _) = asking(Server::Endless).await;
    let error = directory.sign_in("ada", "correct horse").await.expect_err("in no group that counts");
    assert_eq!(error.code(), Code::SignInNoRole);
}
