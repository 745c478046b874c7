//! `seawall agent enroll` and what it refuses.

use std::time::Duration;

use libtest_mimic::Trial;

use crate::fleet::{Agent, Operator, PATIENCE};
use crate::harness::{case, eventually};
use crate::lab::Lab;
use crate::process::Outcome;

pub fn all() -> Vec<Trial> {
    vec![
        case(
            "a token that is wrong, used or expired is refused in the operator's words, and nothing is kept",
            refused,
        ),
        case(
            "a device enrols once and says so when it is asked again",
            once,
        ),
        case(
            "a server with a certificate of another authority is not talked to",
            other_authority,
        ),
    ]
}

const HOUR: Duration = Duration::from_secs(3600);

async fn enroll(agent: &Agent) -> anyhow::Result<Outcome> {
    let file = agent.token_file().display().to_string();
    agent.run("enroll", &["--join-token-file", &file]).await
}

fn says(outcome: &Outcome, words: &[&str]) {
    let said = &outcome.stderr;
    for word in words {
        assert!(said.contains(word), "{word:?} is not in {said:?}");
    }
}

async fn refused() -> anyhow::Result<()> {
    let lab = Lab::new()?;
    let laptop = lab.host("laptop")?;
    let operator = Operator::start(&lab).await?;

    let mut wrong = operator.token(1, HOUR).await?;
    let mut token = seawall::fleet::join_token::JoinToken::decode(&wrong)?;
    token.secret[0] ^= 1;
    wrong = token.encode();
    let used = operator.token(1, HOUR).await?;
    let first = Agent::at_rest(&lab.host("first")?, &used)?;
    enroll(&first).await?.success()?;
    let expired = operator.token(1, Duration::from_secs(1)).await?;
    tokio::time::sleep(Duration::from_millis(1200)).await;

    for (token, words) in [
        (wrong.as_str(), &["refused", "not accepted"][..]),
        (
            &used,
            &["refused", "used up", "seawall fleet join-token create"],
        ),
        (&expired, &["refused", "expired"]),
    ] {
        let agent = Agent::at_rest(&laptop, token)?;
        let outcome = enroll(&agent).await?;
        assert_eq!(outcome.status.code(), Some(2), "{outcome:?}");
        says(&outcome, words);
        assert!(agent.id().is_err(), "nothing was kept");
    }
    let nonsense = Agent::at_rest(&laptop, "swj1.nonsense")?;
    let outcome = enroll(&nonsense).await?;
    assert_eq!(outcome.status.code(), Some(1), "{outcome:?}");
    says(&outcome, &["copy it again"]);
    let status = nonsense.run("status", &[]).await?;
    assert_eq!(status.status.code(), Some(1));
    says(&status, &["has not enrolled", "seawall agent enroll"]);
    Ok(())
}

async fn once() -> anyhow::Result<()> {
    let lab = Lab::new()?;
    let laptop = lab.host("laptop")?;
    let operator = Operator::start(&lab).await?;
    let mut agent = Agent::at_rest(&laptop, &operator.token(5, HOUR).await?)?;
    let said = enroll(&agent).await?.success()?;
    let device = agent.id()?;
    assert!(
        said.contains(device.as_str()) && said.contains("acme"),
        "{said}"
    );

    let again = enroll(&agent).await?;
    assert_eq!(again.status.code(), Some(1));
    says(&again, &["already enrolled", device.as_str()]);

    agent.restart()?;
    operator.connected(&agent).await?;
    // While it runs, a second one on its files is refused.
    let second = agent.run("run", &[]).await?;
    assert_eq!(second.status.code(), Some(1));
    says(&second, &["another agent runs"]);
    // The operator may know of the stream before the agent has noted it.
    let shown = eventually("the status to be well", PATIENCE, || async {
        let status = agent.run("status", &[]).await?;
        Ok(status.status.success().then_some(status.stdout))
    })
    .await?;
    assert!(
        shown.contains("connected to") && shown.contains(device.as_str()),
        "{shown}"
    );
    Ok(())
}

async fn other_authority() -> anyhow::Result<()> {
    let lab = Lab::new()?;
    let laptop = lab.host("laptop")?;
    let (operator, impostor) = (Operator::start(&lab).await?, Operator::start(&lab).await?);
    let mut token = seawall::fleet::join_token::JoinToken::decode(&operator.token(1, HOUR).await?)?;
    token.addresses = vec![impostor.address().to_string()];
    let agent = Agent::at_rest(&laptop, &token.encode())?;
    let outcome = enroll(&agent).await?;
    assert_eq!(outcome.status.code(), Some(1), "{outcome:?}");
    says(&outcome, &["no operator was reached", "certificate"]);
    // The right address takes the token still: its secret went nowhere.
    token.addresses = vec![operator.address().to_string()];
    std::fs::write(agent.token_file(), token.encode())?;
    enroll(&agent).await?.success()?;
    Ok(())
}
