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

// shows: H-02
#[tokio::test]
async fn a_hundred_guesses_at_once_are_no_more_than_five() {
    let Bed { people, clock, _folder } = bed();
    people.put(new("ada", Role::Viewer, "correct horse")).await.expect("stored");
    let here = Some(IpAddr::from([10, 0, 0, 1]));
    let guesses = (0..100).map(|_| {
        let people = people.clone();
        tokio::spawn(async move { code(people.sign_in("ada", "a wrong one".into(), here).await) })
    });
    let mut tried = 0;
    for guess in guesses.collect::<Vec<_>>() {
        match guess.await.expect("no panic") {
            Code::SignInFailed => tried += 1,
            other => assert_eq!(other, Code::SignInThrottled),
        }
    }
    assert_eq!(tried, 5);
    // What is no guess costs nobody a wait: the right password, as often as one likes.
    clock.advance_ms(900_000);
    for _ in 0..7 {
        people.sign_in("ada", "correct horse".into(), here).await.expect("signed in");
    }
}

#[tokio::test]
async fn nobody_is_locked_out_from_elsewhere_where_they_signed_in_before() {
    let Bed { people, clock, _folder } = bed();
    people.put(new("eve", Role::Viewer, "correct horse")).await.expect("stored");
    let at = |last| Some(IpAddr::from([10, 0, 0, last]));
    let right = async |peer| people.sign_in("eve", "correct horse".into(), peer).await.map(drop);
    right(at(1)).await.expect("signed in");
    for guess in 0..40 {
        // Each from an address that has done nothing yet.
        let _counted = people.sign_in("EVE", "a wrong one".into(), at(100 + guess)).await;
        clock.advance_ms(400);
    }
    assert_eq!(code(right(at(2)).await), Code::SignInThrottled, "from somewhere new the name waits");
    right(at(1)).await.expect("where she is known she does not");
    for _ in 0..5 {
        assert_eq!(code(people.sign_in("eve", "a wrong one".into(), at(1)).await), Code::SignInFailed);
    }
    assert_eq!(code(right(at(1)).await), Code::SignInThrottled, "guesses from there count, too");
}

// shows: H-04
#[tokio::test]
async fn stream_tokens_last_thirty_minutes_and_no_longer_than_their_sign_in_and_cannot_be_changed() {
    let Bed { people, clock, _folder } = bed();
    let add = async || people.put(new("ada", Role::Viewer, "correct horse")).await.expect("stored");
    let sign_in = async || people.sign_in("ada", "correct horse".into(), None).await.expect("signed in");
    let person = |token: &str| people.of_stream(token).map(|(signed_in, left)| (signed_in.person, left.as_millis()));
    add().await;
    let (cookie, ada) = sign_in().await;
    let token = people.stream_token(&ada, Some(&["line-1".to_owned()]));
    assert_eq!(person(&token).expect("valid"), (ada.person.clone(), 30 * 60_000));
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
        assert_eq!(code(people.of_stream(&forged)), Code::StreamTokenInvalid);
    }
    clock.advance_ms(30 * 60_000 - 1);
    assert_eq!(person(&token).expect("still valid").1, 1);
    clock.advance_ms(1_000);
    assert_eq!(code(people.of_stream(&token)), Code::StreamTokenInvalid);

    // Signed out, another password, another person of the same name: none of them has this token.
    let token = people.stream_token(&ada, None);
    people.sign_out(cookie.expose());
    assert_eq!(code(people.of_stream(&token)), Code::StreamTokenInvalid);
    assert!(ada.over.is_cancelled());
    let (_, ada) = sign_in().await;
    let token = people.stream_token(&ada, None);
    add().await;
    assert_eq!(code(people.of_stream(&token)), Code::StreamTokenInvalid);
    let (_, ada) = sign_in().await;
    let token = people.stream_token(&ada, None);
    people.remove("ada").await.expect("removed");
    assert!(ada.over.is_cancelled());
    add().await;
    assert_eq!(code(people.of_stream(&token)), Code::StreamTokenInvalid);
    sign_in().await;
    assert_eq!(code(people.of_stream(&token)), Code::StreamTokenInvalid);
    // Shortly before the sign-in ends a token lasts no longer.
    let (_, ada) = sign_in().await;
    clock.advance_ms(12 * 3_600_000 - 60_000);
    assert_eq!(person(&people.stream_token(&ada, None)).expect("valid").1, 60_000);
}

// shows: H-02
#[tokio::test]
async fn refused_tries_do_not_bury_what_was_done() {
    let Bed { people, clock, _folder } = bed();
    people.audit("ada", "session.end", "session-1", &Ok(())).await;
    for _ in 0..2_000 {
        let refused = Err(Error::new(Code::SignInRole, "for administrators"));
        people.audit("ben", "policy.pin", "generation 1", &refused).await;
    }
    clock.advance_ms(10_000);
    people.audit("ben", "policy.pin", "generation 1", &Err(Error::new(Code::SignInRole, "for administrators"))).await;
    let (rows, more) = people.audited(None, false).await.expect("read");
    assert_eq!((rows.len(), more), (32, false));
    assert_eq!(rows[0].target, "generation 1 (and 1970 refused tries before)");
    assert_eq!((rows[31].who.as_str(), rows[31].outcome.as_str()), ("ada", "done"));
    // Page after page.
    for n in 0..250 {
        people.audit("ada", "session.end", &format!("session-{n}"), &Ok(())).await;
    }
    let (first, more) = people.audited(None, true).await.expect("read");
    assert!(first.len() == 200 && more && first[0].target == "session-249", "{:?}", first[0]);
    let (second, more) = people.audited(Some(first[199].seq), true).await.expect("read");
    assert_eq!((second.len(), more, second[50].target.as_str()), (51, false, "session-1"));
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
