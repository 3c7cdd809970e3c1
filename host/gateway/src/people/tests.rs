//! Signing in, guessing, changing people, stream tokens: on an injected clock and a real database.

use super::*;
use crate::{clock::ManualClock, data_dir::InstanceId, telemetry::Metrics};

struct Bed {
    people: People,
    clock: Arc<ManualClock>,
    _folder: tempfile::TempDir,
}

fn bed() -> Bed {
    bed_with(None)
}

fn bed_with(directory: Option<Directory>) -> Bed {
    let folder = tempfile::tempdir().expect("a folder");
    let instance = InstanceId::parse("00112233445566778899aabbccddeeff").expect("an id");
    let path = folder.path().join("tidegate.db");
    let storage = Storage::open(&path, &instance, Metrics::new().storage).expect("opens");
    let clock = Arc::new(ManualClock::new());
    Bed { people: People::new(storage, clock.clone(), directory, Aliases::mint()), clock, _folder: folder }
}

fn new(name: &str, role: Role, password: &str) -> NewPerson {
    NewPerson { name: name.into(), role, groups: vec!["crew".into()], password: password.into() }
}

fn code<T>(result: Result<T>) -> Code {
    result.err().map(|error| error.code()).expect("an error")
}

// shows: H-02
#[tokio::test]
async fn people_sign_in_with_their_password_and_a_change_signs_them_out() {
    let Bed { people, clock, _folder } = bed();
    people.put(new("ada", Role::Admin, "correct horse")).await.expect("stored");
    for (name, password) in [("ada", "wrong horse"), ("nobody", "correct horse"), ("ada", ""), ("", "correct horse")] {
        assert_eq!(code(people.sign_in(name, password.into(), None).await), Code::SignInFailed);
    }
    let (token, signed_in) = people.sign_in("ada", "correct horse".into(), None).await.expect("signed in");
    assert_eq!((&*signed_in.person.name, signed_in.person.role), ("ada", Role::Admin));
    assert_eq!(people.who(token.expose()).expect("known").form_token, signed_in.form_token);
    assert_eq!(code(people.who("something else")), Code::SignInFailed);
    let other = people.sign_in("ada", "correct horse".into(), None).await.expect("twice").0;
    people.sign_out(other.expose());
    assert_eq!(code(people.who(other.expose())), Code::SignInFailed);
    assert!(people.who(token.expose()).is_ok(), "the other browser stays");
    people.put(new("ada", Role::Viewer, "another horse")).await.expect("changed");
    assert_eq!(code(people.who(token.expose())), Code::SignInFailed);
    let (token, _) = people.sign_in("ada", "another horse".into(), None).await.expect("with the new one");
    clock.advance_ms(12 * 3_600_000);
    assert_eq!(code(people.who(token.expose())), Code::SignInFailed);
    people.remove("ada").await.expect("removed");
    assert_eq!(code(people.remove("ada").await), Code::PersonUnknown);
    assert_eq!(code(people.sign_in("ada", "another horse".into(), None).await), Code::SignInFailed);
}

#[tokio::test]
async fn guessing_costs_time_by_name_and_by_address() {
    let Bed { people, clock, _folder } = bed();
    people.put(new("ada", Role::Viewer, "correct horse")).await.expect("stored");
    let (here, there) = (Some(IpAddr::from([10, 0, 0, 1])), Some(IpAddr::from([10, 0, 0, 2])));
    for _ in 0..5 {
        assert_eq!(code(people.sign_in("ada", "a wrong one".into(), here).await), Code::SignInFailed);
    }
    let right = async |peer| people.sign_in("ada", "correct horse".into(), peer).await;
    let throttled = right(there).await.expect_err("the name waits, wherever from");
    assert_eq!(throttled.code(), Code::SignInThrottled);
    assert_eq!(code(people.sign_in("ben", "a wrong one".into(), here).await), Code::SignInThrottled);
    assert_eq!(code(people.sign_in("ben", "a wrong one".into(), there).await), Code::SignInFailed);
    clock.advance_ms(1_000);
    right(there).await.expect("the wait is over");
    assert_eq!(code(people.sign_in("ada", "a wrong one".into(), here).await), Code::SignInFailed);
    assert_eq!(code(right(here).await), Code::SignInThrottled, "the address waits twice as long");
    clock.advance_ms(900_000);
    right(here).await.expect("forgotten");
}

// shows: H-04
#[tokio::test]
async fn stream_tokens_last_thirty_minutes_and_cannot_be_changed() {
    let Bed { people, clock, _folder } = bed();
    people.put(new("ada", Role::Viewer, "correct horse")).await.expect("stored");
    let ada = people.present("ada").await.expect("read").expect("there");
    let token = people.stream_token(&ada, Some(&["line-1".to_owned()]));
    assert_eq!(people.of_stream(&token).await.expect("valid"), ada);
    let (claims, mac) = token.split_once('.').expect("two parts");
    for forged in [
        format!("{}.{mac}", claims.replacen('6', "7", 1)),
        format!("{claims}.{}", mac.replace(|c: char| c.is_ascii_digit(), "a")),
        format!("{claims}."),
        claims.to_owned(),
        String::new(),
        "é.é".to_owned(),
        "7".repeat(100_000),
    ] {
        assert_eq!(code(people.of_stream(&forged).await), Code::StreamTokenInvalid);
    }
    clock.advance_ms(30 * 60_000 - 1);
    people.of_stream(&token).await.expect("still valid");
    clock.advance_ms(1_000);
    assert_eq!(code(people.of_stream(&token).await), Code::StreamTokenInvalid);
    let token = people.stream_token(&ada, None);
    people.remove("ada").await.expect("removed");
    assert_eq!(code(people.of_stream(&token).await), Code::StreamTokenInvalid);
}

#[tokio::test]
async fn what_cannot_be_a_person_is_refused_with_the_field() {
    let Bed { people, clock: _, _folder } = bed();
    let field = |result: Result<()>| {
        let error = result.expect_err("refused");
        assert_eq!(error.code(), Code::PersonInvalid);
        error.details().iter().find(|(key, _)| *key == "field").map(|(_, value)| value.to_string()).expect("a field")
    };
    assert_eq!(field(people.put(new("", Role::Admin, "long enough")).await), "name");
    assert_eq!(field(people.put(new(&"a".repeat(65), Role::Admin, "long enough")).await), "name");
    assert_eq!(field(people.put(new(" ada", Role::Admin, "long enough")).await), "name");
    assert_eq!(field(people.put(new("ada", Role::Admin, "short")).await), "password");
    let many = NewPerson { groups: vec!["g".into(); 65], ..new("ada", Role::Admin, "long enough") };
    assert_eq!(field(people.put(many).await), "groups");
    assert_eq!(field(people.grant("crew", "").await), "tag");
    people.grant("crew", "line-1").await.expect("granted");
    people.grant("crew", "line-1").await.expect("twice is once");
    assert_eq!(people.grants().await.expect("read"), [("crew".to_owned(), "line-1".to_owned())]);
    people.take_grant("crew", "line-1").await.expect("taken");
    assert_eq!(code(people.take_grant("crew", "line-1").await), Code::PersonUnknown);
}

// shows: H-02
#[tokio::test]
async fn without_an_answer_of_the_directory_local_people_sign_in_and_no_case_of_their_names_is_looked_up() {
    let flags = [("ldap_url", "ldap://127.0.0.1:1"), ("ldap_starttls", "false"), ("ldap_bind", "uid={name},dc=x")];
    let settings = crate::config::ServeConfig::load(&crate::config::ServeArgs::of(&flags)).expect("valid").directory;
    let directory = Directory::new(settings.expect("a directory")).expect("made");
    let Bed { people, clock, _folder } = bed_with(Some(directory));
    people.put(new("ada", Role::Admin, "correct horse")).await.expect("stored");
    let (_, signed_in) = people.sign_in("ada", "correct horse".into(), None).await.expect("signed in");
    assert_eq!(signed_in.person.source, Source::Local);
    for _ in 0..7 {
        assert_eq!(code(people.sign_in("ben", "correct horse".into(), None).await), Code::SignInDirectory);
    }
    for (name, password) in [("ADA", "correct horse"), ("Ada", "wrong horse"), ("ben", ""), ("ada", "")] {
        assert_eq!(code(people.sign_in(name, password.into(), None).await), Code::SignInFailed, "{name}");
    }
    assert_eq!(code(people.sign_in("aDa", "a wrong one".into(), None).await), Code::SignInFailed);
    assert_eq!(code(people.sign_in("adA", "a wrong one".into(), None).await), Code::SignInFailed);
    let throttled = code(people.sign_in("ada", "correct horse".into(), None).await);
    assert_eq!(throttled, Code::SignInThrottled, "guesses in any case of a name count together");
    clock.advance_ms(900_000);
    people.sign_in("ada", "correct horse".into(), None).await.expect("forgotten");
}
