//! Every test with real parts, one file a subject. A file gives its tests by `all()`.

mod control_plane;
mod lab;
mod process;
mod toolset;

use libtest_mimic::Trial;

pub fn all() -> Vec<Trial> {
    [
        control_plane::all(),
        lab::all(),
        process::all(),
        toolset::all(),
    ]
    .into_iter()
    .flatten()
    .collect()
}
