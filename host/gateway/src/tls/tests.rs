//! A pair is taken or refused, with its reason; a certificate's names come out as texts.

use super::*;
use crate::{
    config::{ClientAuth, TlsVersion},
    error::Code,
    telemetry::Metrics,
};
use rustls_pki_types::{CertificateDer, pem::PemObject as _};
use std::{fs, os::unix::fs::PermissionsExt as _, path::Path};

fn made(names: &[&str]) -> DevFiles {
    let names = names.iter().map(|name| (*name).to_owned()).collect();
    DevFiles::make(&DevRequest { names, client: "historian".into() }).expect("made")
}

fn put(path: &Path, text: &str, mode: u32) {
    fs::write(path, text).expect("written");
    fs::set_permissions(path, fs::Permissions::from_mode(mode)).expect("mode set");
}

fn settings(folder: &Path) -> TlsSettings {
    TlsSettings {
        certificate: folder.join("server.pem"),
        key: folder.join("server.key"),
        client_ca: Some(folder.join("ca.pem")),
        client_auth: ClientAuth::Required,
        version_min: TlsVersion::Tls12,
    }
}

fn write(folder: &Path, files: &DevFiles) {
    put(&folder.join("server.pem"), &files.server, 0o644);
    put(&folder.join("server.key"), &files.server_key, 0o600);
    put(&folder.join("ca.pem"), &files.ca, 0o644);
}

#[test]
fn what_is_not_whole_or_not_private_is_refused_with_its_file() {
    let folder = tempfile::tempdir().expect("a folder");
    let (at, files, others) = (folder.path(), made(&["localhost"]), made(&["localhost"]));
    let load = || Tls::load(settings(at), Metrics::new().tls);
    let refused = |words: &str| {
        let error = load().expect_err(words);
        assert_eq!(error.code(), Code::TlsUnusable, "{error}");
        assert!(error.message().contains(words), "{words}: {error}");
        assert!(!error.message().contains("BEGIN"), "no content: {error}");
    };
    refused("server.pem cannot be read");
    write(at, &files);
    load().expect("whole");
    put(&at.join("server.key"), &files.server_key, 0o640);
    refused("server.key can be used by group or others (mode 0640)");
    put(&at.join("server.key"), &others.server_key, 0o600);
    refused("do not belong together");
    put(&at.join("server.key"), &files.server, 0o600);
    refused("holds no private key");
    write(at, &files);
    put(&at.join("server.pem"), "", 0o644);
    refused("server.pem holds no certificate");
    write(at, &files);
    put(&at.join("ca.pem"), &files.ca[..files.ca.len() / 2], 0o644);
    refused("ca.pem");
}

/// A pair that signed itself, valid from and until so many days from now.
fn dated(folder: &Path, days: [i64; 2]) {
    let key = rcgen::KeyPair::generate().expect("a key");
    let mut params = rcgen::CertificateParams::new(vec!["localhost".into()]).expect("a name");
    let at = |days: i64| {
        let far = Duration::from_secs(days.unsigned_abs() * 86_400);
        if days < 0 { SystemTime::now() - far } else { SystemTime::now() + far }
    };
    (params.not_before, params.not_after) = (at(days[0]).into(), at(days[1]).into());
    put(&folder.join("server.pem"), &params.self_signed(&key).expect("signed").pem(), 0o644);
    put(&folder.join("server.key"), &key.serialize_pem(), 0o600);
}

#[test]
fn a_pair_out_of_its_time_replaces_none_that_is_valid_and_is_told() {
    let folder = tempfile::tempdir().expect("a folder");
    let at = folder.path();
    let settings = TlsSettings { client_ca: None, client_auth: ClientAuth::Off, ..settings(at) };
    let found = || files::read(&settings).and_then(|read| files::load(&settings, &read));
    dated(at, [-2, -1]);
    let tls = Tls::load(settings.clone(), Metrics::new().tls).expect("whole");
    let serving = || tls.shared.serving.load().digest;
    assert!(tls.trouble().is_some_and(|words| words.contains("expired")), "{:?}", tls.trouble());
    dated(at, [-1, 1]);
    tls.take(found());
    let good = serving();
    assert_eq!((good, tls.trouble()), (found().expect("whole").digest, None));
    for (days, words) in [([1, 2], "not valid yet"), ([-2, -1], "expired")] {
        dated(at, days);
        tls.take(found());
        tls.take_in_time();
        assert_eq!(serving(), good, "{words}");
        assert!(tls.trouble().is_some_and(|said| said.contains(words)), "{:?}", tls.trouble());
    }
    // What was too early an hour ago.
    dated(at, [-1, 1]);
    let due = found().expect("whole");
    let digest = due.digest;
    *tls.shared.too_early.lock() = Some(due);
    tls.take_in_time();
    assert_eq!((serving(), tls.trouble()), (digest, None));
}

#[test]
fn names_of_a_certificate_come_out_as_texts() {
    let files = made(&["gate.example", "10.1.2.3", "::1"]);
    let read = |pem: &str| Certificate::read(&CertificateDer::from_pem_slice(pem.as_bytes()).expect("PEM"));
    let expected = ["CN=Tidegate development server", "dns=gate.example", "ip=10.1.2.3", "ip=::1"];
    assert_eq!(read(&files.server).names(), expected);
    assert_eq!(read(&files.client).names(), ["CN=historian"]);
    assert_eq!(Certificate::read(&CertificateDer::from(vec![1, 2, 3])), Certificate::default());
    // What is too long is nobody's name.
    let long = DevFiles::make(&DevRequest { names: vec!["a".repeat(300)], client: "x".repeat(64) }).expect("made");
    assert_eq!(read(&long.server).names(), ["CN=Tidegate development server"]);
}
