//! `mcpscale probe`: asks URLs and fails unless each answers well, for `helm test`. The image has no shell to do it with.

use std::time::Duration;

use super::print_text;
use crate::{cli::ProbeArguments, signals::innermost};

/// Longest wait for one answer.
const ANSWER: Duration = Duration::from_secs(10);

pub(super) async fn ask(arguments: &ProbeArguments) -> Result<(), String> {
    let http = reqwest::Client::builder()
        .no_proxy()
        .timeout(ANSWER)
        .build()
        .map_err(|error| error.to_string())?;
    for url in &arguments.urls {
        let answer = http
            .get(url)
            .send()
            .await
            .map_err(|error| format!("{url} does not answer: {}", innermost(&error)))?;
        let status = answer.status();
        print_text(&format!("{url} answers {status}\n"))?;
        if !status.is_success() {
            let body = answer.text().await.unwrap_or_default();
            return Err(format!("{url} answers {status}: {}", body.trim()));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use wiremock::{Mock, MockServer, ResponseTemplate, matchers::path};

    use super::*;

    /// What a user loses without it: a `helm test` that passes whatever is installed.
    #[tokio::test]
    async fn every_url_must_answer_well() {
        let server = MockServer::start().await;
        for (at, status, body) in [
            ("/ready", 200, "ready"),
            ("/waits", 503, "the caches are not filled yet"),
        ] {
            let answer = ResponseTemplate::new(status).set_body_string(body);
            Mock::given(path(at)).respond_with(answer).mount(&server).await;
        }
        let good = format!("{}/ready", server.uri());
        let waits = format!("{}/waits", server.uri());
        let nobody = "http://127.0.0.1:1/ready".to_owned();
        for (name, urls, expected) in [
            ("ready", vec![good.clone()], None),
            (
                "the second is not",
                vec![good.clone(), waits],
                Some("503 Service Unavailable: the caches are not"),
            ),
            ("nobody there", vec![nobody, good], Some("does not answer")),
        ] {
            let outcome = ask(&ProbeArguments { urls }).await;
            match expected {
                None => assert_eq!(outcome, Ok(()), "{name}"),
                Some(part) => assert!(
                    outcome.as_ref().is_err_and(|error| error.contains(part)),
                    "{name}: {outcome:?}"
                ),
            }
        }
    }
}
