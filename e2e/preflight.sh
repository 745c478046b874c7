#!/usr/bin/env bash
# Looks at the machine before anything is built: installs what is missing where it can, and else names
# everything that is missing at once, each with the command that brings it. Two seconds when all is there.
#
# It is told nothing and changes nothing in the work tree. Without root, Debian packages are unpacked into
# $SEAWALL_CACHE/bin, which the Makefile puts on PATH.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

cache="${SEAWALL_CACHE:-${XDG_CACHE_HOME:-$HOME/.cache}/seawall}"
export PATH="$PATH:/usr/sbin:/sbin:$cache/bin"

missing=()     # what a person has to do: "what: command"
packages=()    # Debian packages that would bring what is missing
need() { missing+=("$1: $2"); }
have() { command -v "$1" >/dev/null 2>&1; }
# at_least 1.95 1.95.0 → true when the second is not older
at_least() { [ "$(printf '%s\n%s\n' "$1" "$2" | sort -V | head -n1)" = "$1" ]; }

# --- programs that Debian packages bring -------------------------------------------------------------

have cc   || packages+=(gcc libc6-dev)
have git  || packages+=(git)
have nft  || packages+=(nftables)
have ip   || packages+=(iproute2)
have unshare && have nsenter && have mount || packages+=(util-linux mount)

# What a real node of the tests' cluster runs. A node takes root, so nobody else is asked for it, and the
# tests that want one say that they were skipped when it can't be installed.
node_packages=()
if [ "$(id -u)" = 0 ]; then
  have containerd && have ctr || node_packages+=(containerd)
  have runc     || node_packages+=(runc)
  have iptables || node_packages+=(iptables)
  have ipset    || node_packages+=(ipset)
  have busybox  || node_packages+=(busybox-static)
  have strip    || node_packages+=(binutils)
  [ -f /etc/ssl/certs/ca-certificates.crt ] || node_packages+=(ca-certificates)
  [ -x /usr/lib/cni/bridge ] || [ -x /opt/cni/bin/bridge ] || node_packages+=(containernetworking-plugins)
fi

# The tests of the operator's database run a PostgreSQL of their own. Without it they fail and name the package; the
# demo needs none.
have_postgres() { have initdb || compgen -G '/usr/lib/postgresql/*/bin/initdb' >/dev/null; }

install_as_root() { # PACKAGE…
  echo "preflight: installing $*" >&2
  local wanted=("$@")
  # Lists that are already there are tried first: fetching them takes longer than the packages.
  apt_install() { DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends "${wanted[@]}" >"$log" 2>&1; }
  local log; log=$(mktemp)
  apt_install || { apt-get update -qq >>"$log" 2>&1 && apt_install; } || tail -n 20 "$log" >&2
  rm -f -- "$log"
}

# nft is the only one of them that a working Debian without root commonly lacks. Its package and the
# libraries that are not installed are unpacked beside each other; a wrapper sets the library path.
unpack_nft_without_root() {
  local dir="$cache/nftables" libs
  libs="$dir/root/usr/lib/$(uname -m)-linux-gnu"
  mkdir -p "$dir/root" "$cache/bin"
  echo "preflight: unpacking nftables into $dir" >&2
  ( cd "$dir" && apt-get download -qq nftables libnftables1 libnftnl11 libmnl0 libjansson4 libgmp10 \
      libedit2 libbsd0 libmd0 libxtables12 >/dev/null 2>&1 ) || return 0
  local deb
  for deb in "$dir"/*.deb; do dpkg -x "$deb" "$dir/root" && rm -f -- "$deb"; done
  printf '#!/bin/sh\nLD_LIBRARY_PATH=%s exec %s "$@"\n' "'$libs'" "'$dir/root/usr/sbin/nft'" >"$cache/bin/nft.$$"
  chmod +x "$cache/bin/nft.$$"
  mv -f "$cache/bin/nft.$$" "$cache/bin/nft"
  nft --version >/dev/null 2>&1 || rm -f -- "$cache/bin/nft"
}

if [ ${#packages[@]} -gt 0 ]; then
  if have apt-get && [ "$(id -u)" = 0 ]; then
    install_as_root "${packages[@]}"
  elif have apt-get && have dpkg && ! have nft; then
    unpack_nft_without_root
  fi
fi
if [ ${#node_packages[@]} -gt 0 ] && have apt-get; then
  install_as_root "${node_packages[@]}"
fi
if ! have_postgres && have apt-get && [ "$(id -u)" = 0 ]; then
  # Else its package makes a server and starts it.
  no_server=/etc/postgresql-common/createcluster.d/seawall-tests.conf
  mkdir -p "${no_server%/*}"
  echo 'create_main_cluster = false' >"$no_server"
  install_as_root postgresql
  rm -f -- "$no_server"
fi
have_postgres || echo "preflight: without PostgreSQL the tests of the operator's database fail: sudo apt-get install postgresql" >&2
have cc  || need "a C compiler (cc)" "sudo apt-get install gcc libc6-dev"
have git || need "git" "sudo apt-get install git"
have nft || need "nft (nftables)" "sudo apt-get update && sudo apt-get install nftables"
have ip  || need "ip (iproute2)" "sudo apt-get install iproute2"
have unshare && have nsenter && have mount || need "unshare, nsenter, mount (util-linux)" "sudo apt-get install util-linux mount"

# --- Rust ---------------------------------------------------------------------------------------------

rust_wanted=$(sed -n 's/^rust-version = "\(.*\)"/\1/p' Cargo.toml)
if ! have cargo || ! have rustc; then
  need "Rust $rust_wanted or later" "install rustup from https://rustup.rs, then: rustup toolchain install stable"
else
  rust_found=$(rustc --version | cut -d' ' -f2)
  at_least "$rust_wanted" "$rust_found" || need "Rust $rust_wanted or later (found $rust_found)" "rustup update stable"
  cargo fmt --version >/dev/null 2>&1 || need "rustfmt" "rustup component add rustfmt"
  cargo clippy --version >/dev/null 2>&1 || need "clippy" "rustup component add clippy"
fi

# --- the control plane's programs: in the cache, or else built with Go --------------------------------

tools=e2e/cluster/tools
tools_cached=yes
modules=(kubernetes etcd helm source-controller kustomize-controller cert-manager)
[ "$(id -u)" != 0 ] || modules+=(kube-router)
for module in "${modules[@]}"; do
  key=$(cat "$tools/$module/go.mod" "$tools/$module/go.sum" | sha256sum | cut -c1-16)
  [ -d "$cache/tools/$module-$key/bin" ] || tools_cached=no
done
if [ $tools_cached = no ]; then
  go_wanted=$(sed -n 's/^go \(.*\)/\1/p' "$tools/kubernetes/go.mod")
  if ! have go; then
    need "Go $go_wanted or later, to build kube-apiserver, etcd, helm and Flux's controllers once" "install it from https://go.dev/dl"
  else
    # Asked outside the modules: inside, an older Go would try to fetch the newer one and fail unclearly.
    go_found=$(cd / && go env GOVERSION); go_found=${go_found#go}
    at_least "$go_wanted" "$go_found" || [ "$(cd / && go env GOTOOLCHAIN)" != local ] ||
      need "Go $go_wanted or later (found $go_found)" "install it from https://go.dev/dl, or set GOTOOLCHAIN=auto"
  fi
fi

# --- what the kernel lets us do -----------------------------------------------------------------------

if have unshare && have ip && have nft; then
  # The very steps that the tests begin with; `nft` shows that the kernel judges packets there.
  try='mount -t tmpfs none /run && mkdir /run/netns && ip link set lo up && ip netns add probe && ip link add br0 type bridge &&
       nft "add table inet probe; add chain inet probe c { type filter hook input priority -10; }; add rule inet probe c ct state new drop"'
  if ! why=$(unshare -U -r -n -m -p -f --kill-child --mount-proc sh -c "$try" 2>&1); then
    if [ "$(id -u)" != 0 ]; then
      need "user namespaces in which nftables works (${why##*$'\n'})" \
        "sudo sysctl -w kernel.unprivileged_userns_clone=1 kernel.apparmor_restrict_unprivileged_userns=0 user.max_user_namespaces=10000, or run make as root"
    elif ! why=$(unshare -n -m -p -f --kill-child --mount-proc sh -c "$try" 2>&1); then
      need "network namespaces in which nftables works (${why##*$'\n'})" "run on a machine, or in a container, with CAP_SYS_ADMIN and CAP_NET_ADMIN"
    fi
  fi
fi

# --- room ---------------------------------------------------------------------------------------------

# free_gib DIR → whole GiB free where DIR is or will be
free_gib() {
  local dir=$1
  while [ ! -d "$dir" ]; do dir=$(dirname "$dir"); done
  echo $(( $(df -Pk "$dir" | awk 'NR == 2 { print $4 }') / 1048576 ))
}
target="${CARGO_TARGET_DIR:-target}"
[ -d "$target/debug/deps" ] && target_gib=2 || target_gib=5
[ $tools_cached = yes ] && cache_gib=1 || cache_gib=7
[ "$(free_gib "$target")" -ge $target_gib ] || need "$target_gib GiB of disk for $target ($(free_gib "$target") free)" "make room, or set CARGO_TARGET_DIR"
[ "$(free_gib "$cache")" -ge $cache_gib ] || need "$cache_gib GiB of disk for $cache ($(free_gib "$cache") free)" "make room, or set SEAWALL_CACHE"

memory_mib=$(( $(sed -n 's/^MemAvailable: *\([0-9]*\) kB/\1/p' /proc/meminfo) / 1024 ))
[ "$memory_mib" -ge 3000 ] || need "3 GiB of free memory ($memory_mib MiB available)" "close something"

# ------------------------------------------------------------------------------------------------------

if [ ${#missing[@]} -gt 0 ]; then
  echo "preflight: this machine lacks:" >&2
  printf '  - %s\n' "${missing[@]}" >&2
  exit 1
fi
