//! The operator's flags. Each can also be given by an environment variable.

use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;

use clap::{Args, ValueEnum};
use ipnet::IpNet;

use super::database::DatabaseUrl;
use crate::domain::names::ObjectKey;
use crate::domain::world::Protected;

#[derive(Debug, Clone, Args)]
pub struct OperatorArgs {
    /// The namespace that the operator runs in; its resources may speak for every tenant.
    #[arg(
        long,
        env = "SEAWALL_SYSTEM_NAMESPACE",
        default_value = "seawall-system"
    )]
    pub system_namespace: String,

    /// Holds the database, the audit log and the lock that keeps a second operator out.
    #[arg(long, env = "SEAWALL_DATA_DIR", default_value = "/var/lib/seawall")]
    pub data_dir: PathBuf,

    /// The database, `sqlite:///PATH?mode=rwc` or `postgres://USER:PASSWORD@HOST:5432/DATABASE`; by
    /// default SQLite in the data directory. With a password only in the environment or in a file.
    #[arg(long, env = "SEAWALL_DATABASE_URL", hide_env_values = true)]
    pub database_url: Option<DatabaseUrl>,

    /// A file that holds the database's URL.
    #[arg(long, env = "SEAWALL_DATABASE_URL_FILE")]
    pub database_url_file: Option<PathBuf>,

    /// The certificate authority of the PostgreSQL server, in PEM; the same as `sslrootcert` in the URL.
    #[arg(long, env = "SEAWALL_DATABASE_CA_FILE")]
    pub database_ca_file: Option<PathBuf>,

    /// The name of the audit log, which is in every checkpoint; by default `seawall/` and the system
    /// namespace. It can't be changed later.
    #[arg(long, env = "SEAWALL_AUDIT_ORIGIN")]
    pub audit_origin: Option<String>,

    /// Where agents connect (gRPC over mutual TLS).
    #[arg(long, env = "SEAWALL_FLEET_LISTEN", default_value = "0.0.0.0:8443")]
    pub fleet_listen: SocketAddr,

    /// Where `/live`, `/ready` and `/metrics` are served.
    #[arg(long, env = "SEAWALL_HEALTH_LISTEN", default_value = "0.0.0.0:8080")]
    pub health_listen: SocketAddr,

    /// Where the API server calls the webhook that records who wrote what; absent: no webhook.
    #[arg(long, env = "SEAWALL_WEBHOOK_LISTEN")]
    pub webhook_listen: Option<SocketAddr>,

    /// A name or address of the webhook as the API server calls it, for its certificate; repeatable.
    /// The Service `seawall-webhook` of the system namespace is always in it, and the address that it
    /// listens on, if it is one.
    #[arg(
        long = "webhook-name",
        env = "SEAWALL_WEBHOOK_NAMES",
        value_delimiter = ','
    )]
    pub webhook_names: Vec<String>,

    /// The webhook's certificate and those between it and its authority, PEM; read again when the file
    /// changes. Whoever makes it tells the API server which authority to trust. Absent: the operator
    /// makes it and tells.
    #[arg(
        long,
        env = "SEAWALL_WEBHOOK_TLS_CERTIFICATE_FILE",
        requires = "webhook_tls_key_file"
    )]
    pub webhook_tls_certificate_file: Option<PathBuf>,

    /// The key of --webhook-tls-certificate-file, PEM.
    #[arg(
        long,
        env = "SEAWALL_WEBHOOK_TLS_KEY_FILE",
        requires = "webhook_tls_certificate_file"
    )]
    pub webhook_tls_key_file: Option<PathBuf>,

    /// The Unix socket for the MCP server.
    #[arg(
        long,
        env = "SEAWALL_LOCAL_SOCKET",
        default_value = "/run/seawall/local.sock"
    )]
    pub local_socket: PathBuf,

    /// The Unix socket for `seawall fleet` and `seawall explain`.
    #[arg(
        long,
        env = "SEAWALL_ADMIN_SOCKET",
        default_value = "/run/seawall/admin.sock"
    )]
    pub admin_socket: PathBuf,

    /// Where the MCP server finds its token for the API server; absent: none is made.
    #[arg(long, env = "SEAWALL_MCP_TOKEN_FILE")]
    pub mcp_token_file: Option<PathBuf>,

    /// The ServiceAccount of the MCP server, in the system namespace.
    #[arg(
        long,
        env = "SEAWALL_MCP_SERVICE_ACCOUNT",
        default_value = "seawall-mcp"
    )]
    pub mcp_service_account: String,

    /// An address at which agents reach this operator, host:port; repeatable. No rule can cut it off.
    #[arg(
        long = "operator-address",
        env = "SEAWALL_OPERATOR_ADDRESSES",
        value_delimiter = ','
    )]
    pub operator_addresses: Vec<SocketAddr>,

    /// The ServiceAccount of the agents on the cluster's nodes, as namespace/name: they enrol with its
    /// tokens. Absent: no node enrols.
    #[arg(long, env = "SEAWALL_NODE_SERVICE_ACCOUNT", value_parser = object_key)]
    pub node_service_account: Option<ObjectKey>,

    /// Isolate pods of Deployments also where no agent runs: by taking their labels away and a
    /// NetworkPolicy. Needs the right to read, patch and delete pods.
    #[arg(long, env = "SEAWALL_WORKLOADS_WITHOUT_AGENT")]
    pub workloads_without_agent: bool,

    /// The address of the operator's pod, at which agents on nodes reach it.
    #[arg(long, env = "SEAWALL_POD_IP")]
    pub pod_ip: Option<IpAddr>,

    /// A network that no AI agent's Policy may cut, as what=network, such as `backup=10.0.7.0/24`;
    /// repeatable. A device with an address in it is not isolated, whoever asks. The API server and the
    /// cluster's DNS are watched and added where they can be read.
    #[arg(
        long,
        env = "SEAWALL_PROTECTED",
        value_delimiter = ',',
        value_parser = protected
    )]
    pub protected: Vec<Protected>,

    /// The Service of the cluster's DNS, as namespace/name.
    #[arg(
        long,
        env = "SEAWALL_CLUSTER_DNS",
        default_value = "kube-system/kube-dns",
        value_parser = object_key
    )]
    pub cluster_dns: ObjectKey,

    /// More isolations than this released at once by deletion are held until a person confirms.
    #[arg(long, env = "SEAWALL_HOLD_THRESHOLD", default_value_t = 5)]
    pub hold_threshold: usize,

    /// How the log is written; `auto` is `human` on a terminal and `json` elsewhere.
    #[arg(long, env = "SEAWALL_LOG_FORMAT", value_enum, default_value_t)]
    pub log_format: LogFormat,
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, ValueEnum)]
pub enum LogFormat {
    #[default]
    Auto,
    Human,
    Json,
}

fn object_key(text: &str) -> Result<ObjectKey, String> {
    text.split_once('/')
        .filter(|(namespace, name)| !namespace.is_empty() && !name.is_empty())
        .map(|(namespace, name)| ObjectKey::new(namespace, name))
        .ok_or_else(|| {
            format!("{text:?} is not namespace/name: write for example kube-system/kube-dns")
        })
}

/// Reads `what=network`; a single address needs no prefix length.
fn protected(text: &str) -> Result<Protected, String> {
    let wrong = || {
        format!(
            "{text:?} is not what=network: write for example backup=10.0.7.0/24 or ntp=10.0.0.1"
        )
    };
    let (what, network) = text.split_once('=').ok_or_else(wrong)?;
    let network = network
        .parse::<IpNet>()
        .or_else(|_| network.parse::<std::net::IpAddr>().map(IpNet::from))
        .map_err(|_| wrong())?;
    if what.is_empty() {
        return Err(wrong());
    }
    Ok(Protected {
        what: what.to_owned(),
        network,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_protected_is_given_as_a_name_and_a_network_or_address() {
        let backup = protected("backup=10.0.7.0/24").expect("a network");
        assert_eq!(
            (backup.what.as_str(), backup.network.to_string().as_str()),
            ("backup", "10.0.7.0/24")
        );
        let ntp = protected("ntp=2001:db8::1").expect("an address");
        assert_eq!(ntp.network.to_string(), "2001:db8::1/128");
        for wrong in ["", "10.0.0.0/8", "=10.0.0.0/8", "dns=ten"] {
            assert!(protected(wrong).expect_err(wrong).contains("what=network"));
        }
    }
}
