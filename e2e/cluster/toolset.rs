//! Where the control plane's programs come from: `KUBEBUILDER_ASSETS`, else `PATH`, else the cache, else
//! built into the cache from the pinned Go modules under `tools/`.
//!
//! A program found in the first two is taken only in the pinned minor version; another is named and
//! passed over. The cache is keyed by each product's lock files, so what is found there is what is pinned.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::Context;
use sha2::{Digest, Sha256};

use super::build;

const TOOLS: &str = "SEAWALL_E2E_TOOLS";

/// One program, built from a package of a product's Go module.
pub struct Program {
    pub name: &'static str,
    pub package: &'static str,
    /// What makes it print its version; empty for one that can't, which is never taken from `PATH`.
    version: &'static [&'static str],
}

/// Who wants a product.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Wanted {
    /// Every control plane: nothing runs without it.
    Always,
    /// Real nodes, which take root.
    ByNodes,
    /// Tests alone: what is run by hand does without.
    ByTests,
}

/// Programs of one version, with the module that pins them.
pub struct Product {
    /// Its folder under `tools/`, too.
    pub name: &'static str,
    module: &'static str,
    go_mod: &'static str,
    go_sum: &'static str,
    /// None for a product of which only the custom resources are wanted.
    pub programs: &'static [Program],
    /// Linker variables that hold the version, which a build from a module leaves empty.
    pub version_variables: &'static [&'static str],
    /// The folder in its module of the custom resources that it reads, which are kept beside its programs.
    pub definitions: Option<&'static str>,
    pub wanted: Wanted,
}

pub const PRODUCTS: [Product; 7] = [
    Product {
        name: "etcd",
        module: "go.etcd.io/etcd/server/v3",
        go_mod: include_str!("tools/etcd/go.mod"),
        go_sum: include_str!("tools/etcd/go.sum"),
        programs: &[Program {
            name: "etcd",
            package: "go.etcd.io/etcd/server/v3",
            version: &["--version"],
        }],
        version_variables: &[],
        definitions: None,
        wanted: Wanted::Always,
    },
    Product {
        name: "kubernetes",
        module: "k8s.io/kubernetes",
        go_mod: include_str!("tools/kubernetes/go.mod"),
        go_sum: include_str!("tools/kubernetes/go.sum"),
        programs: &[
            Program {
                name: "kube-apiserver",
                package: "k8s.io/kubernetes/cmd/kube-apiserver",
                version: &["--version"],
            },
            Program {
                name: "kube-controller-manager",
                package: "k8s.io/kubernetes/cmd/kube-controller-manager",
                version: &["--version"],
            },
            Program {
                name: "kube-scheduler",
                package: "k8s.io/kubernetes/cmd/kube-scheduler",
                version: &["--version"],
            },
            Program {
                name: "kube-proxy",
                package: "k8s.io/kubernetes/cmd/kube-proxy",
                version: &["--version"],
            },
            Program {
                name: "kubelet",
                package: "k8s.io/kubernetes/cmd/kubelet",
                version: &["--version"],
            },
            Program {
                name: "kubectl",
                package: "k8s.io/kubernetes/cmd/kubectl",
                version: &["version", "--client"],
            },
        ],
        // Without it the API server reports a version that kubectl can't parse.
        version_variables: &[
            "k8s.io/component-base/version.gitVersion",
            "k8s.io/client-go/pkg/version.gitVersion",
        ],
        definitions: None,
        wanted: Wanted::Always,
    },
    Product {
        name: "helm",
        module: "helm.sh/helm/v4",
        go_mod: include_str!("tools/helm/go.mod"),
        go_sum: include_str!("tools/helm/go.sum"),
        programs: &[Program {
            name: "helm",
            package: "helm.sh/helm/v4/cmd/helm",
            version: &["version", "--short"],
        }],
        version_variables: &["helm.sh/helm/v4/internal/version.version"],
        definitions: None,
        wanted: Wanted::Always,
    },
    Product {
        name: "kube-router",
        module: "github.com/cloudnativelabs/kube-router/v2",
        go_mod: include_str!("tools/kube-router/go.mod"),
        go_sum: include_str!("tools/kube-router/go.sum"),
        programs: &[Program {
            name: "kube-router",
            package: "github.com/cloudnativelabs/kube-router/v2/cmd/kube-router",
            version: &["--version"],
        }],
        version_variables: &["github.com/cloudnativelabs/kube-router/v2/pkg/version.Version"],
        definitions: None,
        wanted: Wanted::ByNodes,
    },
    Product {
        name: "source-controller",
        module: "github.com/fluxcd/source-controller",
        go_mod: include_str!("tools/source-controller/go.mod"),
        go_sum: include_str!("tools/source-controller/go.sum"),
        programs: &[Program {
            name: "source-controller",
            package: "github.com/fluxcd/source-controller",
            version: &[],
        }],
        version_variables: &[],
        definitions: Some("config/crd/bases"),
        wanted: Wanted::ByTests,
    },
    Product {
        name: "kustomize-controller",
        module: "github.com/fluxcd/kustomize-controller",
        go_mod: include_str!("tools/kustomize-controller/go.mod"),
        go_sum: include_str!("tools/kustomize-controller/go.sum"),
        programs: &[Program {
            name: "kustomize-controller",
            package: "github.com/fluxcd/kustomize-controller",
            version: &[],
        }],
        version_variables: &[],
        definitions: Some("config/crd/bases"),
        wanted: Wanted::ByTests,
    },
    // Its commands are in no module that can be fetched.
    Product {
        name: "cert-manager",
        module: "github.com/cert-manager/cert-manager",
        go_mod: include_str!("tools/cert-manager/go.mod"),
        go_sum: include_str!("tools/cert-manager/go.sum"),
        programs: &[],
        version_variables: &[],
        definitions: Some("deploy/crds"),
        wanted: Wanted::ByTests,
    },
];

impl Product {
    pub fn module(&self) -> &'static str {
        self.module
    }

    /// The pinned version, as Go writes it: `v1.36.4`.
    pub fn version(&self) -> &'static str {
        self.go_mod
            .lines()
            .map(str::split_whitespace)
            .find_map(|mut words| {
                words.find(|word| *word == self.module)?;
                words.next().filter(|word| word.starts_with('v'))
            })
            .expect("a tools module requires its product")
    }

    /// Where the program is, which is built where it is not found.
    fn find(&self, program: &Program, dirs: &[PathBuf], cache: &Path) -> anyhow::Result<PathBuf> {
        let (found, passed_over) = installed(program, self.version(), dirs);
        passed_over.iter().for_each(|word| eprintln!("{word}"));
        match found {
            Some(path) => Ok(path),
            None => Ok(build::cached(self, cache, Path::new("go"))?.join(program.name)),
        }
    }

    /// Where each of its programs is; of a product without any, where one of its name would be.
    fn find_all(
        &self,
        dirs: &[PathBuf],
        cache: &Path,
    ) -> Vec<(&'static str, anyhow::Result<PathBuf>)> {
        if self.programs.is_empty() {
            let bin = build::cached(self, cache, Path::new("go"));
            return vec![(self.name, bin.map(|bin| bin.join(self.name)))];
        }
        let programs = self.programs.iter();
        programs
            .map(|program| (program.name, self.find(program, dirs, cache)))
            .collect()
    }

    /// Its folder in the cache. `e2e/preflight.sh` computes the same.
    pub fn cached(&self, cache: &Path) -> PathBuf {
        let hash = Sha256::new()
            .chain_update(self.go_mod)
            .chain_update(self.go_sum)
            .finalize();
        cache.join(format!("{}-{}", self.name, &hex::encode(hash)[..16]))
    }
}

/// The path of every program.
#[derive(Clone, Debug, serde::Serialize, serde::Deserialize)]
pub struct Toolset(BTreeMap<String, PathBuf>);

impl Toolset {
    /// Finds the programs, or builds those that are nowhere. Needs the network for the latter. `tests` are
    /// to be run, which want more than a command does.
    pub fn ensure(tests: bool) -> anyhow::Result<Self> {
        let dirs = search_path();
        let cache = cache_dir()?;
        let mut paths = BTreeMap::new();
        let root = nix::unistd::geteuid().is_root();
        let wanted = |product: &&Product| match product.wanted {
            Wanted::Always => true,
            Wanted::ByNodes => root,
            Wanted::ByTests => tests,
        };
        for product in PRODUCTS.iter().filter(wanted) {
            let found = product.find_all(&dirs, &cache);
            for (name, path) in found {
                match path {
                    Ok(path) => _ = paths.insert(name.to_owned(), path),
                    // The tests that want it say that they are skipped, and the others are worth a run.
                    Err(error) if product.wanted != Wanted::Always => eprintln!("{error:#}"),
                    Err(error) => return Err(error),
                }
            }
        }
        Ok(Self(paths))
    }

    pub fn to_env(&self) -> anyhow::Result<(String, String)> {
        Ok((TOOLS.into(), serde_json::to_string(self)?))
    }

    /// What `ensure` found before the sandbox was entered.
    pub fn from_env() -> anyhow::Result<Self> {
        let json = std::env::var(TOOLS).context("only inside the sandbox")?;
        Ok(serde_json::from_str(&json)?)
    }

    pub fn command(&self, program: &str) -> anyhow::Result<Command> {
        let path = self.0.get(program);
        Ok(Command::new(path.with_context(|| {
            format!("{program} is not a program of the control plane")
        })?))
    }

    /// The folder of the custom resources that the program reads, or that the product of this name has.
    pub fn definitions(&self, program: &str) -> anyhow::Result<PathBuf> {
        let path = self.0.get(program);
        let path = path.with_context(|| format!("{program} could not be built"))?;
        let place = path.ancestors().nth(2).context("it is in the cache")?;
        Ok(place.join(build::DEFINITIONS))
    }
}

/// Folders that exist, each once: on a merged `/usr`, `/bin` is `/usr/bin` again.
fn search_path() -> Vec<PathBuf> {
    let assets = std::env::var_os("KUBEBUILDER_ASSETS").map(PathBuf::from);
    let path = std::env::var_os("PATH").unwrap_or_default();
    let mut dirs = Vec::new();
    for dir in assets.into_iter().chain(std::env::split_paths(&path)) {
        if let Ok(dir) = dir.canonicalize()
            && !dirs.contains(&dir)
        {
            dirs.push(dir);
        }
    }
    dirs
}

/// Where programs that tests need are kept from run to run.
pub fn cache_dir() -> anyhow::Result<PathBuf> {
    let set = |name: &str| std::env::var_os(name).filter(|value| !value.is_empty());
    let cache = match (set("SEAWALL_CACHE"), set("XDG_CACHE_HOME"), set("HOME")) {
        (Some(dir), _, _) => PathBuf::from(dir),
        (None, Some(dir), _) => Path::new(&dir).join("seawall"),
        (None, None, Some(home)) => Path::new(&home).join(".cache/seawall"),
        (None, None, None) => {
            anyhow::bail!("set SEAWALL_CACHE to a folder for the control plane's programs")
        }
    };
    Ok(cache.join("tools"))
}

/// The first in `dirs` that says it is of the pinned minor version, and a word on each that was passed over.
pub fn installed(
    program: &Program,
    pinned: &str,
    dirs: &[PathBuf],
) -> (Option<PathBuf>, Vec<String>) {
    let mut passed_over = Vec::new();
    if program.version.is_empty() {
        return (None, passed_over);
    }
    let candidates = dirs.iter().map(|dir| dir.join(program.name));
    for path in candidates.filter(|path| path.is_file()) {
        let found = version_of(&path, program.version);
        if found.as_deref().and_then(minor) == minor(pinned) {
            return (Some(path), passed_over);
        }
        passed_over.push(format!(
            "passing over {}: it is {}, and {pinned} is wanted",
            path.display(),
            found.as_deref().unwrap_or("of no version that it tells")
        ));
    }
    (None, passed_over)
}

/// The first thing that looks like a version in what the program prints.
fn version_of(path: &Path, args: &[&str]) -> Option<String> {
    // A program that hangs must not hang the tests.
    let out = Command::new("timeout")
        .arg("10")
        .arg(path)
        .args(args)
        .output()
        .ok()?;
    let text = String::from_utf8_lossy(&out.stdout).into_owned();
    text.split_whitespace()
        .find(|word| minor(word).is_some())
        .map(str::to_owned)
}

/// `v1.36.4` → (1, 36)
fn minor(version: &str) -> Option<(u32, u32)> {
    let mut parts = version.trim_start_matches('v').splitn(3, '.');
    let major = parts.next()?.parse().ok()?;
    let minor = parts.next()?.parse().ok()?;
    parts.next().map(|_patch| (major, minor))
}
