//! `cargo xtask ldap`: a real slapd with people and groups, on the loopback in a folder of its own, and gateways of this
//! tree that ask it: over StartTLS and ldaps, by name and by search, with what guessers type. Knows both from outside.
//! Invariant: servers that it starts have ended when it returns, and each case says what was expected.

use super::python::{apt, done};
use anyhow::{Context, bail, ensure};
use std::{
    fs,
    io::{Read, Write},
    net::{TcpListener, TcpStream},
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
    process::{Child, Command, ExitCode, Stdio},
    time::{Duration, Instant},
};

const PACKAGES: &[&str] = &["slapd", "ldap-utils"];
/// Until a server answers: a debug build compiles its policies first.
const START: Duration = Duration::from_secs(120);
const LOOK: Duration = Duration::from_millis(50);
const SCHEMAS: &str = "/etc/ldap/schema";
const MODULES: &str = "/usr/lib/ldap";

/// Ada administers, Ben looks, Cid is in no group; two entries have the same mail address, and one name has marks that
/// filters and names take for theirs.
const PEOPLE: &str = "\
dn: dc=plant,dc=example
objectClass: dcObject
objectClass: organization
dc: plant
o: Plant

dn: ou=people,dc=plant,dc=example
objectClass: organizationalUnit
ou: people

dn: ou=groups,dc=plant,dc=example
objectClass: organizationalUnit
ou: groups

dn: cn=reader,dc=plant,dc=example
objectClass: organizationalRole
objectClass: simpleSecurityObject
cn: reader
userPassword: readers word

dn: uid=ada,ou=people,dc=plant,dc=example
objectClass: inetOrgPerson
uid: ada
cn: Ada
sn: L
mail: both@plant.example
userPassword: correct horse

dn: uid=ben,ou=people,dc=plant,dc=example
objectClass: inetOrgPerson
uid: ben
cn: Ben
sn: M
mail: both@plant.example
userPassword: battery staple

dn: uid=cid,ou=people,dc=plant,dc=example
objectClass: inetOrgPerson
uid: cid
cn: Cid
sn: N
userPassword: nobody knows

dn: uid=d\\2c(e)*,ou=people,dc=plant,dc=example
objectClass: inetOrgPerson
uid: d,(e)*
cn: Dee
sn: O
userPassword: strange name

dn: cn=operators,ou=groups,dc=plant,dc=example
objectClass: groupOfNames
cn: operators
member: uid=ada,ou=people,dc=plant,dc=example

dn: cn=line-1-crew,ou=groups,dc=plant,dc=example
objectClass: groupOfNames
cn: line-1-crew
member: uid=ben,ou=people,dc=plant,dc=example
member: uid=ada,ou=people,dc=plant,dc=example
member: uid=d\\2c(e)*,ou=people,dc=plant,dc=example
";

const BIND: &[(&str, &str)] = &[("ldap-bind", "uid={name},ou=people,dc=plant,dc=example")];
const GROUPS: &[(&str, &str)] = &[
    ("ldap-group-base", "ou=groups,dc=plant,dc=example"),
    ("ldap-admin-groups", "Operators"),
    ("ldap-viewer-groups", "line-1-crew"),
];

/// Status, and a part of the page.
type Expected = (u16, &'static str);
const IN: Expected = (303, "");
const WRONG: Expected = (401, "name or password is wrong");

/// slapd in a folder of its own.
struct Directory {
    child: Child,
    config: PathBuf,
    plain: u16,
    secure: u16,
}

struct Gateway {
    child: Child,
    command: Command,
    data: PathBuf,
    http: String,
}

struct Cases {
    done: u32,
    wrong: Vec<String>,
}

/// Wrong passwords that an address has before it has to wait.
const FREE: usize = 5;

pub(crate) fn run(root: &Path, install: bool) -> anyhow::Result<ExitCode> {
    if super::browser::on_path("slapd").is_none() || super::browser::on_path("ldapadd").is_none() {
        apt(PACKAGES).context("there is no slapd and apt-get brings none")?;
    }
    if install {
        return Ok(ExitCode::SUCCESS);
    }
    done(Command::new("cargo").args(["build", "--quiet", "--workspace", "--locked"]).current_dir(root))?;
    let tidegate = std::env::current_exe().context("this program has no path")?.with_file_name("tidegate");
    let out = root.join("target/ldap");
    if out.exists() {
        fs::remove_dir_all(&out).context("cannot clear target/ldap")?;
    }
    fs::create_dir_all(&out).context("cannot make target/ldap")?;
    let tls = out.join("tls");
    done(Command::new(&tidegate).args(["tls", "dev", "--json", "--dir"]).arg(&tls).stdout(Stdio::null()))?;
    let mut cases = Cases { done: 0, wrong: Vec::new() };
    look(&tidegate, &out, &tls, &mut cases)?;
    for wrong in &cases.wrong {
        eprintln!("broken: {wrong}");
    }
    println!("{}", serde_json::json!({ "cases": cases.done, "broken": cases.wrong.len() }));
    Ok(if cases.wrong.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

fn look(tidegate: &Path, out: &Path, tls: &Path, cases: &mut Cases) -> anyhow::Result<()> {
    let mut directory = Directory::start(out, tls)?;
    let ca = tls.join("ca.pem").display().to_string();
    let (plain, secure) =
        (format!("ldap://localhost:{}", directory.plain), format!("ldaps://127.0.0.1:{}", directory.secure));
    let start = |name: &str, more: &[&[(&str, &str)]]| Gateway::start(tidegate, &out.join(name), &more.concat());

    // By name, over StartTLS, with groups that are searched for as the person.
    let mut named = start("named", &[&[("ldap-url", &plain), ("ldap-ca", &ca)], BIND, GROUPS])?;
    named.add(tidegate, "eve", "Admin")?;
    named.grant(tidegate, "line-1-crew", "line-1")?;
    cases.all(
        &mut named,
        "by name",
        &[
            ("ada", "correct horse", IN, "an administrator signs in"),
            ("ben", "battery staple", IN, "a viewer signs in"),
            ("BEN", "battery staple", IN, "in any case of letters"),
            ("d,(e)*", "strange name", IN, "a name full of marks is a name"),
            ("eve", "correct horse", IN, "a local person signs in beside them"),
            ("ada", "battery staple", WRONG, "somebody else's password"),
            ("ada", "", WRONG, "an empty password is no anonymous bind"),
            ("nobody", "correct horse", WRONG, "an unknown name"),
            ("cid", "nobody knows", (403, "none of your groups"), "in no group that has a role"),
            ("*", "correct horse", WRONG, "a star is no name"),
            ("ada,ou=people,dc=plant,dc=example", "correct horse", WRONG, "a name is no path"),
            ("Eve", "battery staple", WRONG, "a local person's name is not looked up"),
        ],
    )?;
    named.again()?;
    let page = |name, password, path| named.page_of(name, password, path);
    cases.check("an administrator sees the audit", page("ada", "correct horse", "/audit")?.0 == 200);
    cases.check("a viewer does not", page("ben", "battery staple", "/audit")?.0 == 403);
    let shown = page("ben", "battery staple", "/")?.1;
    cases.check("a viewer is called by the name in lower case", shown.contains("ben (Viewer"));
    cases.check("an open page of a viewer lives", named.lives("ben", "battery staple")?);
    for _ in 0..6 {
        let _counted = named.sign_in("ben", "a wrong guess")?;
    }
    cases.sign_in(&named, "by name", "Ben", "battery staple", (429, "too many"), "guesses are slowed down");
    named.says_nothing_secret(cases)?;
    drop(named);

    // By search with an account of its own, over TLS from the first byte.
    let word = out.join("word");
    fs::write(&word, "readers word\n").context("cannot write the password")?;
    fs::set_permissions(&word, fs::Permissions::from_mode(0o600)).context("cannot make it private")?;
    let word = word.display().to_string();
    let account = [("ldap-search-dn", "cn=reader,dc=plant,dc=example"), ("ldap-search-password-file", word.as_str())];
    let base = [("ldap-search-base", "dc=plant,dc=example")];
    let mut searched = start("searched", &[&[("ldap-url", &secure), ("ldap-ca", &ca)], &base, &account, GROUPS])?;
    cases.all(
        &mut searched,
        "by search",
        &[
            ("ada", "correct horse", IN, "an administrator signs in"),
            ("d,(e)*", "strange name", IN, "a name full of marks is a name"),
            ("*)(uid=*", "correct horse", WRONG, "a filter is no name"),
            ("*", "correct horse", WRONG, "a star is no name"),
            ("ada)(|(uid=*", "correct horse", WRONG, "an opened filter is no name"),
            ("ada", "", WRONG, "an empty password is no anonymous bind"),
            ("cid", "nobody knows", (403, "none of your groups"), "in no group that has a role"),
        ],
    )?;
    searched.again()?;
    cases.check("an administrator by search", searched.page_of("ada", "correct horse", "/audit")?.0 == 200);
    drop(searched);
    let by_mail = [&base[..], &[("ldap-search-filter", "(mail={name})")]].concat();
    let two = start("two", &[&[("ldap-url", &secure), ("ldap-ca", &ca)], &by_mail, &account, GROUPS])?;
    cases.sign_in(&two, "by mail", "both@plant.example", "correct horse", WRONG, "a name that two have is nobody's");
    drop(two);
    // Groups as the entries themselves name them.
    let member_of = [("ldap-admin-groups", "operators"), ("ldap-viewer-groups", "line-1-crew")];
    let entries = start("entries", &[&[("ldap-url", &plain), ("ldap-ca", &ca)], BIND, &member_of])?;
    cases.sign_in(&entries, "by memberOf", "ben", "battery staple", IN, "a viewer signs in");
    cases.sign_in(&entries, "by memberOf", "cid", "nobody knows", (403, "none of your groups"), "in no group");
    cases.check("an administrator by memberOf", entries.page_of("ada", "correct horse", "/audit")?.0 == 200);
    drop(entries);

    // What must not be believed, and what does not answer.
    fs::create_dir_all(out.join("other")).context("cannot make a folder")?;
    let other = out.join("other/tls");
    done(Command::new(tidegate).args(["tls", "dev", "--json", "--dir"]).arg(&other).stdout(Stdio::null()))?;
    let other = other.join("ca.pem").display().to_string();
    const AWAY: Expected = (503, "the directory gives no answer");
    for (name, url) in [("foreign-starttls", &plain), ("foreign-ldaps", &secure)] {
        let foreign = start(name, &[&[("ldap-url", url), ("ldap-ca", &other)], BIND, GROUPS])?;
        foreign.add(tidegate, "eve", "Admin")?;
        cases.sign_in(&foreign, name, "ada", "correct horse", AWAY, "a foreign certificate is not believed");
        cases.sign_in(&foreign, name, "eve", "correct horse", IN, "a local person signs in all the same");
    }
    let late =
        start("late", &[&[("ldap-url", &plain), ("ldap-ca", &ca), ("ldap-timeout-seconds", "1")], BIND, GROUPS])?;
    late.add(tidegate, "eve", "Admin")?;
    cases.sign_in(&late, "late", "ben", "battery staple", IN, "while the directory answers");
    directory.signal("STOP")?;
    cases.sign_in(&late, "late", "ada", "correct horse", AWAY, "a directory that says nothing is not waited for");
    directory.signal("CONT")?;
    cases.sign_in(&late, "late", "ada", "correct horse", IN, "when it goes on");
    directory.stop();
    cases.sign_in(&late, "late", "ada", "correct horse", AWAY, "a directory that is down");
    cases.sign_in(&late, "late", "eve", "correct horse", IN, "a local person signs in while it is down");
    directory.again()?;
    cases.sign_in(&late, "late", "ada", "correct horse", IN, "when it is back, without a restart of the gateway");
    late.says_nothing_secret(cases)?;
    Ok(())
}

// === impl Cases ===

impl Cases {
    fn check(&mut self, what: &str, holds: bool) {
        self.done += 1;
        println!("{} {what}", if holds { "kept  " } else { "BROKEN" });
        if !holds {
            self.wrong.push(what.to_owned());
        }
    }

    /// One after the other; a gateway that has seen as many wrong ones as it takes begins anew.
    fn all(&mut self, of: &mut Gateway, how: &str, cases: &[(&str, &str, Expected, &str)]) -> anyhow::Result<()> {
        let mut wrong = 0;
        for (name, password, expected, what) in cases {
            if wrong == FREE {
                of.again()?;
                wrong = 0;
            }
            wrong += usize::from(*expected == WRONG);
            self.sign_in(of, how, name, password, *expected, what);
        }
        Ok(())
    }

    fn sign_in(&mut self, of: &Gateway, how: &str, name: &str, password: &str, expected: Expected, what: &str) {
        match of.sign_in(name, password) {
            Ok((status, page, _)) if status == expected.0 && page.contains(expected.1) => {
                self.check(&format!("{how}: {what}"), true);
            }
            Ok((status, page, _)) => self.check(&format!("{how}: {what}: {name:?} got {status}: {page}"), false),
            Err(error) => self.check(&format!("{how}: {what}: {error:#}"), false),
        }
    }
}

// === impl Directory ===

impl Directory {
    fn start(out: &Path, tls: &Path) -> anyhow::Result<Self> {
        let database = out.join("database");
        fs::create_dir_all(&database).context("cannot make the database's folder")?;
        let config = out.join("slapd.conf");
        let schema = |name: &str| format!("include {SCHEMAS}/{name}.schema\n");
        let text = [
            schema("core") + &schema("cosine") + &schema("inetorgperson"),
            format!("modulepath {MODULES}\nmoduleload back_mdb\nmoduleload memberof\n"),
            format!("TLSCACertificateFile {}\n", tls.join("ca.pem").display()),
            format!("TLSCertificateFile {}\n", tls.join("server.pem").display()),
            format!("TLSCertificateKeyFile {}\n", tls.join("server.key").display()),
            // A gateway that sent a password in the clear would be refused.
            "security simple_bind=128\n".to_owned(),
            format!("pidfile {}\n", out.join("slapd.pid").display()),
            "database mdb\nsuffix dc=plant,dc=example\nrootdn cn=root,dc=plant,dc=example\nrootpw root\n".to_owned(),
            format!("directory {}\noverlay memberof\n", database.display()),
            "access to attrs=userPassword by anonymous auth by * none\naccess to * by users read by * none\n"
                .to_owned(),
        ];
        fs::write(&config, text.concat()).context("cannot write slapd.conf")?;
        let (plain, secure) = (free_port()?, free_port()?);
        let mut directory = Self { child: Self::spawn(&config, plain, secure)?, config, plain, secure };
        directory.ready()?;
        let people = out.join("people.ldif");
        fs::write(&people, PEOPLE).context("cannot write the people")?;
        let mut add = Command::new("ldapadd");
        add.args([
            "-x",
            "-ZZ",
            "-H",
            &format!("ldap://localhost:{plain}"),
            "-D",
            "cn=root,dc=plant,dc=example",
            "-w",
            "root",
        ]);
        add.arg("-f").arg(&people).env("LDAPTLS_CACERT", tls.join("ca.pem")).stdout(Stdio::null());
        done(&mut add)?;
        Ok(directory)
    }

    fn spawn(config: &Path, plain: u16, secure: u16) -> anyhow::Result<Child> {
        let program = super::browser::on_path("slapd").context("there is no slapd")?;
        let urls = format!("ldap://127.0.0.1:{plain} ldaps://127.0.0.1:{secure}");
        let mut slapd = Command::new(program);
        // In the foreground, saying little.
        slapd.args(["-d", "0", "-h", &urls, "-f"]).arg(config).stdin(Stdio::null());
        slapd.spawn().context("cannot start slapd")
    }

    fn ready(&mut self) -> anyhow::Result<()> {
        let deadline = Instant::now() + START;
        while TcpStream::connect(("127.0.0.1", self.secure)).is_err() {
            if let Some(status) = self.child.try_wait()? {
                bail!("slapd ended: {status}");
            }
            ensure!(Instant::now() < deadline, "slapd does not get ready");
            std::thread::sleep(LOOK);
        }
        Ok(())
    }

    fn signal(&self, signal: &str) -> anyhow::Result<()> {
        done(Command::new("kill").arg(format!("-{signal}")).arg(self.child.id().to_string()))
    }

    fn stop(&mut self) {
        let _gone = self.child.kill();
        let _reaped = self.child.wait();
    }

    fn again(&mut self) -> anyhow::Result<()> {
        self.child = Self::spawn(&self.config, self.plain, self.secure)?;
        self.ready()
    }
}

impl Drop for Directory {
    fn drop(&mut self) {
        self.stop();
    }
}

// === impl Gateway ===

impl Gateway {
    fn start(tidegate: &Path, folder: &Path, flags: &[(&str, &str)]) -> anyhow::Result<Self> {
        fs::create_dir_all(folder).context("cannot make a folder")?;
        let data = folder.join("data");
        let log = fs::File::create(folder.join("log")).context("no log")?;
        let mut command = Command::new(tidegate);
        command.args(["serve", "--listen", "127.0.0.1:0", "--http", "127.0.0.1:0", "--data"]).arg(&data);
        for (name, value) in flags {
            command.arg(format!("--{name}")).arg(value);
        }
        command.stdin(Stdio::null()).stdout(log.try_clone()?).stderr(log);
        let child = command.spawn().context("cannot start the gateway")?;
        let mut gateway = Self { child, command, data, http: String::new() };
        gateway.ready()?;
        Ok(gateway)
    }

    /// Forgets who is signed in and who guessed.
    fn again(&mut self) -> anyhow::Result<()> {
        self.child.kill().context("cannot end the gateway")?;
        self.child.wait().context("cannot await the gateway's end")?;
        fs::remove_file(self.data.join("addresses.json")).context("no addresses to remove")?;
        self.child = self.command.spawn().context("cannot start the gateway")?;
        self.ready()
    }

    fn ready(&mut self) -> anyhow::Result<()> {
        let announced = self.data.join("addresses.json");
        let deadline = Instant::now() + START;
        while !announced.exists() {
            if let Some(status) = self.child.try_wait()? {
                bail!("the gateway ended: {status}\n{}", self.log());
            }
            ensure!(Instant::now() < deadline, "the gateway does not get ready");
            std::thread::sleep(LOOK);
        }
        let addresses: serde_json::Value = serde_json::from_slice(&fs::read(&announced).context("no addresses")?)?;
        self.http = addresses["http"].as_str().context("no HTTP address")?.to_owned();
        Ok(())
    }

    fn add(&self, tidegate: &Path, name: &str, role: &str) -> anyhow::Result<()> {
        let word = self.data.with_file_name("password");
        fs::write(&word, "correct horse\n").context("cannot write a password")?;
        let mut add = Command::new(tidegate);
        add.args(["user", "add", name, "--role", role, "--json", "--password-file"])
            .arg(word)
            .arg("--data")
            .arg(&self.data);
        done(add.stdout(Stdio::null()))
    }

    fn grant(&self, tidegate: &Path, group: &str, tag: &str) -> anyhow::Result<()> {
        let mut grant = Command::new(tidegate);
        done(grant.args(["user", "grant", group, tag, "--json", "--data"]).arg(&self.data).stdout(Stdio::null()))
    }

    /// Status, page and cookie.
    fn sign_in(&self, name: &str, password: &str) -> anyhow::Result<(u16, String, String)> {
        let form = format!("name={}&password={}", escaped(name), escaped(password));
        self.ask("POST", "/sign-in", "", &form)
    }

    fn page_of(&self, name: &str, password: &str, path: &str) -> anyhow::Result<(u16, String)> {
        let (status, page, cookie) = self.sign_in(name, password)?;
        ensure!(status == 303, "{name} is not signed in: {page}");
        let (status, page, _) = self.ask("GET", path, &cookie, "")?;
        Ok((status, page))
    }

    /// Whether the stream of an open page says something.
    fn lives(&self, name: &str, password: &str) -> anyhow::Result<bool> {
        let (_, token) = self.page_of(name, password, "/live/token")?;
        let token: serde_json::Value = serde_json::from_str(&token).context("no token")?;
        let token = token["token"].as_str().context("no token")?;
        let mut stream = self.begin("GET", &format!("/live?token={token}"), "", "")?;
        let mut said = String::new();
        let mut piece = [0; 4096];
        while !said.contains("event: tick") {
            let read = stream.read(&mut piece).context("the page hears nothing")?;
            if read == 0 {
                return Ok(false);
            }
            said.push_str(&String::from_utf8_lossy(&piece[..read]));
        }
        Ok(true)
    }

    fn ask(&self, method: &str, path: &str, cookie: &str, form: &str) -> anyhow::Result<(u16, String, String)> {
        let mut stream = self.begin(method, path, cookie, form)?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer)?;
        let (head, body) = answer.split_once("\r\n\r\n").context("no head")?;
        let status = head.split(' ').nth(1).and_then(|number| number.parse().ok()).context("no status")?;
        let cookie = head.lines().find_map(|line| line.strip_prefix("set-cookie: ")?.split(';').next());
        Ok((status, body.to_owned(), cookie.unwrap_or_default().to_owned()))
    }

    fn begin(&self, method: &str, path: &str, cookie: &str, form: &str) -> anyhow::Result<TcpStream> {
        let mut stream = TcpStream::connect(&self.http).context("the gateway does not answer")?;
        stream.set_read_timeout(Some(START))?;
        let http = &self.http;
        let kind = "application/x-www-form-urlencoded";
        write!(
            stream,
            "{method} {path} HTTP/1.1\r\nHost: {http}\r\nConnection: close\r\nCookie: {cookie}\r\nContent-Type: {kind}\r\n\
             Content-Length: {}\r\n\r\n{form}",
            form.len()
        )?;
        Ok(stream)
    }

    fn log(&self) -> String {
        fs::read_to_string(self.data.with_file_name("log")).unwrap_or_default()
    }

    fn says_nothing_secret(&self, cases: &mut Cases) -> anyhow::Result<()> {
        let log = self.log();
        ensure!(!log.is_empty(), "the gateway wrote no log");
        let secrets = ["correct horse", "battery staple", "readers word", "a wrong guess"];
        cases.check("no password in the log", secrets.iter().all(|secret| !log.contains(secret)));
        Ok(())
    }
}

impl Drop for Gateway {
    fn drop(&mut self) {
        let _gone = self.child.kill();
        let _reaped = self.child.wait();
    }
}

/// Nobody else takes it in that moment, or slapd says so.
fn free_port() -> anyhow::Result<u16> {
    Ok(TcpListener::bind("127.0.0.1:0").context("no free port")?.local_addr()?.port())
}

fn escaped(text: &str) -> String {
    let plain = |byte: u8| byte.is_ascii_alphanumeric();
    text.bytes().map(|byte| if plain(byte) { char::from(byte).to_string() } else { format!("%{byte:02X}") }).collect()
}
