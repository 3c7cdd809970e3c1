//! Where the table of metrics is sent, if anywhere. Knows a text and its parts, sends nothing. Invariant: an address that
//! is taken names a host over plain HTTP, with no name or password in it.

use super::read::{Reader, quoted};
use crate::telemetry::Collector;

/// As the protocol's own documents have them.
const PORT: u16 = 4318;
const PATH: &str = "/v1/metrics";
const FORM: &str = "write e.g. http://127.0.0.1:4318";

impl Reader {
    pub(super) fn collector(&mut self) -> Option<Collector> {
        let every = self.seconds("otlp_every_seconds");
        let text = self.text("otlp_url")?;
        match parts(&text) {
            Ok((host, port, path)) => Some(Collector { host, port, path, every }),
            Err(why) => {
                self.wrong("otlp_url", format!("{} {why}", quoted(&text)));
                None
            }
        }
    }
}

fn parts(text: &str) -> Result<(String, u16, String), String> {
    if text.starts_with("https://") {
        return Err("is HTTPS, which is not spoken here: name a collector on this machine, which passes them on".into());
    }
    let uri: http::Uri = text.parse().map_err(|_| format!("is no address; {FORM}"))?;
    let authority = uri.authority().filter(|_| uri.scheme_str() == Some("http"));
    let authority = authority.ok_or_else(|| format!("is no address; {FORM}"))?;
    if authority.as_str().contains('@') {
        return Err(format!("has a name or a password in it, which everybody would see who sees the settings; {FORM}"));
    }
    let path = uri.path_and_query().map_or("/", |path| path.as_str());
    let path = if path == "/" { PATH } else { path };
    let host = authority.host().trim_matches(['[', ']']);
    Ok((host.to_owned(), authority.port_u16().unwrap_or(PORT), path.to_owned()))
}

#[cfg(test)]
mod tests {
    use super::parts;

    #[test]
    fn an_address_has_a_host_and_for_the_rest_what_is_usual() {
        let all = |host: &str, port, path: &str| Ok((host.to_owned(), port, path.to_owned()));
        assert_eq!(parts("http://collector"), all("collector", 4318, "/v1/metrics"));
        assert_eq!(parts("http://[::1]:9/"), all("::1", 9, "/v1/metrics"));
        assert_eq!(
            parts("http://10.0.0.1:9090/api/v1/otlp/v1/metrics"),
            all("10.0.0.1", 9090, "/api/v1/otlp/v1/metrics")
        );
        for wrong in [
            "",
            "collector",
            "collector:4318",
            "https://collector",
            "ftp://collector",
            "http://",
            "http://a:b@c",
            "/v1",
        ] {
            assert!(parts(wrong).is_err(), "{wrong}");
        }
    }
}
