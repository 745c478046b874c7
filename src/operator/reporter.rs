//! Who Kubernetes Events come from.

use kube::runtime::events::Reporter;

pub fn this() -> Reporter {
    let instance = nix::unistd::gethostname().ok();
    Reporter {
        controller: "seawall".to_owned(),
        instance: instance.and_then(|name| name.into_string().ok()),
    }
}
