//! Who Kubernetes Events come from.

use kube::Client;
use kube::runtime::events::{Recorder, Reporter};

pub fn of(client: Client) -> Recorder {
    let instance = nix::unistd::gethostname()
        .ok()
        .and_then(|name| name.into_string().ok());
    Recorder::new(
        client,
        Reporter {
            controller: "seawall".to_owned(),
            instance,
        },
    )
}
