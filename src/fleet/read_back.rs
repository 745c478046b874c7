//! Asking devices now what their kernels hold.

use std::collections::BTreeSet;
use std::time::Duration;

use futures::future::join_all;
use tokio::sync::oneshot;
use tokio::time::{Instant, timeout_at};

use super::{Fleet, clean, proto, reports};
use crate::domain::names::DeviceId;
use crate::local::types::DeviceReadBack;

/// Questions to one device that may be open.
const MOST_QUESTIONS: usize = 16;

type Answer = oneshot::Receiver<proto::ReadBack>;

impl Fleet {
    /// Has each device read back what is in force on it. Devices that are not connected, or don't
    /// answer in time, say so; devices that nobody enrolled are left out.
    pub async fn read_back(
        &self,
        devices: &BTreeSet<DeviceId>,
        patience: Duration,
    ) -> Vec<DeviceReadBack> {
        let until = Instant::now() + patience;
        let answers = devices.iter().filter_map(|device| {
            let question = self.ask(device)?;
            Some(async move {
                let answer = match question {
                    Question::NotAsked(why) => Err(why),
                    Question::Asked { nonce, answer } => {
                        let answer = timeout_at(until, answer).await;
                        self.forget(device, &nonce);
                        match answer {
                            Ok(Ok(read_back)) => Ok(read_back),
                            Ok(Err(_)) => Err("it disconnected before it answered"),
                            Err(_) => Err(
                                "it did not answer in time; ask again, or look at its agent's log",
                            ),
                        }
                    }
                };
                self.judge(device, answer)
            })
        });
        join_all(answers).await
    }

    /// None for a device that is not enrolled.
    fn ask(&self, device: &DeviceId) -> Option<Question> {
        let mut roster = self.roster();
        let member = roster.members.get_mut(device)?;
        let Some(session) = &mut member.session else {
            return Some(Question::NotAsked("it is not connected"));
        };
        let nonce = hex::encode(rand::random::<[u8; 16]>());
        if session.questions.len() >= MOST_QUESTIONS || !session.outbox.ask(nonce.clone()) {
            return Some(Question::NotAsked(
                "it has questions enough to answer; ask again in a moment",
            ));
        }
        let (sender, answer) = oneshot::channel();
        session.questions.insert(nonce.clone(), sender);
        Some(Question::Asked { nonce, answer })
    }

    fn forget(&self, device: &DeviceId, nonce: &str) {
        let mut roster = self.roster();
        let member = roster.members.get_mut(device);
        if let Some(session) = member.and_then(|member| member.session.as_mut()) {
            session.questions.remove(nonce);
        }
    }

    fn judge(
        &self,
        device: &DeviceId,
        answer: Result<proto::ReadBack, &'static str>,
    ) -> DeviceReadBack {
        let roster = self.roster();
        let member = roster.members.get(device);
        let connected = member.is_some_and(|member| member.is_connected());
        let desired = member.and_then(|member| member.desired.as_ref());
        let kernel = answer.as_ref().ok().map(|read_back| read_back.matches);
        let (matches, detail, counts) = match &answer {
            Err(why) => (false, (*why).to_owned(), Vec::new()),
            Ok(read_back) => {
                let applied = read_back.applied.as_ref().map(|a| a.state_hash.as_str());
                let wanted = desired.map(|desired| desired.hash.as_str());
                let detail = if !read_back.matches {
                    format!(
                        "the kernel does not hold what the agent applied: {}",
                        clean::line(&read_back.detail, clean::LONGEST_DETAIL)
                    )
                } else if wanted.is_none() {
                    "nothing has been compiled for it yet".to_owned()
                } else if applied != wanted {
                    "the kernel holds an earlier state than the one that is wanted".to_owned()
                } else {
                    clean::line(&read_back.detail, clean::LONGEST_DETAIL)
                };
                let matches = read_back.matches && wanted.is_some() && applied == wanted;
                (matches, detail, reports::counts(&read_back.counts))
            }
        };
        DeviceReadBack {
            device: device.clone(),
            connected,
            matches,
            kernel,
            detail,
            counts,
        }
    }
}

enum Question {
    Asked { nonce: String, answer: Answer },
    NotAsked(&'static str),
}
