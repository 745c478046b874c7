# The image of the chart: one binary, and nft for the agent. Built and loaded by the Tiltfile for a kind
# cluster; `docker build .` makes the same.
FROM rust:1.95-bookworm AS build
WORKDIR /src
COPY Cargo.toml Cargo.lock build.rs ./
COPY proto proto
COPY src src
# Cargo.toml names the integration tests' file, which the image is built without.
RUN mkdir e2e && echo 'fn main() {}' > e2e/main.rs
RUN --mount=type=cache,target=/usr/local/cargo/registry \
    --mount=type=cache,target=/src/target \
    cargo build --locked --release --bin seawall && cp target/release/seawall /seawall

FROM debian:bookworm-slim
RUN apt-get update \
    && apt-get install -y --no-install-recommends nftables ca-certificates \
    && rm -rf /var/lib/apt/lists/*
COPY --from=build /seawall /usr/local/bin/seawall
# By this name it is a plugin of kubectl.
RUN ln -s seawall /usr/local/bin/kubectl-seawall
# The operator and the MCP server need no root. The agent does, and says so where it is deployed.
USER 65532:65532
ENTRYPOINT ["/usr/local/bin/seawall"]
