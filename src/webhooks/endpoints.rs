//! The webhooks that the operator has set, and how messages to them are signed.

use std::collections::BTreeMap;
use std::fmt;
use std::path::Path;

use anyhow::{Context, bail, ensure};
use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use hmac::{Hmac, Mac};
use reqwest::Url;
use serde::Deserialize;
use sha2::Sha256;

use crate::private_file;

/// Largest file of webhooks, in bytes.
const LARGEST: u64 = 1 << 20;
/// Longest name of a webhook, in bytes.
const LONGEST_NAME: usize = 63;
/// Lengths of a secret in bytes, from the specification of Standard Webhooks.
const SECRET_LENGTHS: std::ops::RangeInclusive<usize> = 24..=64;
/// Most secrets of a webhook: a new one, and an old one that is being replaced.
const MOST_SECRETS: usize = 2;

/// The webhooks that the operator has set, by name.
#[derive(Debug, Default)]
pub struct Endpoints(BTreeMap<String, Endpoint>);

/// Where messages go, and what signs them.
pub struct Endpoint {
    pub url: Url,
    secrets: Vec<Vec<u8>>,
}

/// A webhook in the operator's file.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct EndpointEntry {
    url: String,
    secrets: Vec<String>,
}

/// Shows neither the secrets nor the address, which may have a secret in it.
impl fmt::Debug for Endpoint {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_struct("Endpoint").finish_non_exhaustive()
    }
}

impl Endpoints {
    /// Reads the operator's file: a JSON object with `url` and `secrets` by name.
    ///
    /// # Errors
    /// The file cannot be read, others may read it, or an entry is faulty.
    pub fn read(path: &Path) -> anyhow::Result<Self> {
        let shown = path.display();
        let text = private_file::read(path, LARGEST).map_err(anyhow::Error::msg)?;
        let text = text.with_context(|| format!("there is no file {shown}, which --webhooks names"))?;
        Self::parse(text.as_bytes()).with_context(|| format!("{shown} is no file of webhooks"))
    }

    fn parse(text: &[u8]) -> anyhow::Result<Self> {
        let document = crate::text::json(text)?;
        let entries: BTreeMap<String, EndpointEntry> = serde_json::from_value(document)
            .context("expected {\"NAME\": {\"url\": \"https://…\", \"secrets\": [\"whsec_…\"]}}")?;
        let endpoints = entries.into_iter().map(|(name, entry)| {
            let endpoint = Endpoint::new(&name, &entry).with_context(|| format!("webhook {name:?}"))?;
            anyhow::Ok((name, endpoint))
        });
        Ok(Self(endpoints.collect::<anyhow::Result<_>>()?))
    }

    /// The names, in alphabetical order.
    #[must_use]
    pub fn names(&self) -> Vec<String> {
        self.0.keys().cloned().collect()
    }

    #[must_use]
    pub fn get(&self, name: &str) -> Option<&Endpoint> {
        self.0.get(name)
    }
}

impl Endpoint {
    fn new(name: &str, entry: &EndpointEntry) -> anyhow::Result<Self> {
        let is_plain = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || matches!(byte, b'-' | b'_');
        ensure!(
            (1..=LONGEST_NAME).contains(&name.len()) && name.bytes().all(is_plain),
            "expected a name of 1 to {LONGEST_NAME} lower-case letters, digits, - and _"
        );
        // Faulty addresses and secrets are not repeated: this text goes into logs.
        let url = Url::parse(&entry.url).ok().filter(|url| url.host().is_some() && url.fragment().is_none());
        let Some(url) = url.filter(|url| matches!(url.scheme(), "http" | "https")) else {
            bail!("its url is not an address http://… or https://… without a fragment");
        };
        ensure!(
            (1..=MOST_SECRETS).contains(&entry.secrets.len()),
            "it has {} secrets: expected one, or a new and an old one while receivers change over",
            entry.secrets.len()
        );
        let secret = |text: &String| {
            let bytes = text.strip_prefix("whsec_").and_then(|text| BASE64_STANDARD.decode(text).ok());
            bytes.filter(|bytes| SECRET_LENGTHS.contains(&bytes.len())).with_context(|| {
                format!(
                    "a secret is not whsec_ and {} to {} random bytes in base64, as from `echo whsec_$(openssl rand \
                     -base64 32)`",
                    SECRET_LENGTHS.start(),
                    SECRET_LENGTHS.end()
                )
            })
        };
        let secrets = entry.secrets.iter().map(secret).collect::<anyhow::Result<_>>()?;
        Ok(Self { url, secrets })
    }

    /// The header `webhook-signature`, as Standard Webhooks define it: for each secret `v1,` and the HMAC-SHA-256 of
    /// id, time in seconds since 1970, and body, with dots between them.
    #[must_use]
    pub fn signature(&self, id: &str, timestamp: i64, body: &str) -> String {
        let signed = format!("{id}.{timestamp}.{body}");
        let signatures = self.secrets.iter().map(|secret| {
            let mut mac = Hmac::<Sha256>::new_from_slice(secret).expect("a key may have any length");
            mac.update(signed.as_bytes());
            format!("v1,{}", BASE64_STANDARD.encode(mac.finalize().into_bytes()))
        });
        signatures.collect::<Vec<_>>().join(" ")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECRET: &str = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw";

    fn parse(document: &str) -> anyhow::Result<Endpoints> {
        Endpoints::parse(document.as_bytes())
    }

    #[test]
    fn a_message_is_signed_as_the_published_example_is() {
        let endpoints = parse(&format!(r#"{{"a": {{"url": "https://h/", "secrets": ["{SECRET}"]}}}}"#)).expect("right");
        let endpoint = endpoints.get("a").expect("there");
        let signature = endpoint.signature("msg_p5jXN8AQM9LWM0D4loKWxJek", 1_614_265_330, r#"{"test": 2432232314}"#);
        assert_eq!(signature, "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE=");
    }

    #[test]
    fn two_secrets_give_two_signatures() {
        let other = format!("whsec_{}", BASE64_STANDARD.encode([7; 32]));
        let document = format!(r#"{{"a": {{"url": "http://h/x?y=z", "secrets": ["{SECRET}", "{other}"]}}}}"#);
        let endpoints = parse(&document).expect("right");
        let signature = endpoints.get("a").expect("there").signature("id", 1, "body");
        let parts: Vec<&str> = signature.split(' ').collect();
        assert!(parts.len() == 2 && parts[0] != parts[1] && parts.iter().all(|part| part.starts_with("v1,")));
    }

    #[test]
    fn what_is_faulty_is_refused_without_repeating_a_secret() {
        for (document, says) in [
            (r#"[]"#.to_owned(), "expected {"),
            (format!(r#"{{"A b": {{"url": "https://h/", "secrets": ["{SECRET}"]}}}}"#), "lower-case letters"),
            (format!(r#"{{"a": {{"url": "ftp://hidden/", "secrets": ["{SECRET}"]}}}}"#), "its url is not"),
            (format!(r#"{{"a": {{"url": "https://h/#x", "secrets": ["{SECRET}"]}}}}"#), "its url is not"),
            (r#"{"a": {"url": "https://h/", "secrets": []}}"#.to_owned(), "0 secrets"),
            (r#"{"a": {"url": "https://h/", "secrets": ["whsec_aGlkZGVu"]}}"#.to_owned(), "24 to 64"),
            (r#"{"a": {"url": "https://h/", "secrets": ["hidden"]}}"#.to_owned(), "openssl rand"),
            (r#"{"a": {"url": "https://h/", "secret": "hidden"}}"#.to_owned(), "unknown field"),
        ] {
            let error = format!("{:#}", parse(&document).expect_err(&document));
            assert!(
                error.contains(says) && !error.contains("hidden") && !error.contains("aGlk"),
                "{document}: {error}"
            );
        }
    }
}
