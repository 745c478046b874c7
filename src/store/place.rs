//! Where a PostgreSQL database is: read from its URL, and named in words that hold no password.

use std::fmt;
use std::fs::File;

use anyhow::{Context, bail, ensure};
use sea_orm::sqlx::ConnectOptions;
use sea_orm::sqlx::postgres::{PgConnectOptions, PgSslMode};

/// What a URL may say after its question mark. Others are refused and not ignored: `sslmod=verify-full`
/// must not be taken for no wish at all.
const PARAMETERS: [&str; 9] = [
    "application_name",
    "dbname",
    "host",
    "port",
    "sslcert",
    "sslkey",
    "sslmode",
    "sslrootcert",
    "user",
];

#[derive(Clone)]
pub struct Place {
    pub options: PgConnectOptions,
}

impl Place {
    /// No error of this names a part of the URL that may be a password.
    pub fn parse(url: &str) -> anyhow::Result<Self> {
        let (_, rest) = url.split_once("://").context(
            "the database's URL has no ://: write postgres://USER:PASSWORD@HOST:5432/DATABASE",
        )?;
        let authority = rest.find(['/', '?', '#']).unwrap_or(rest.len());
        ensure!(
            !rest[authority..].contains(['@', '#']),
            "the database's URL has an @ or # behind its host: percent-encode what is special in \
             the password (/ is %2F, ? is %3F, # is %23, @ is %40)"
        );
        let query = rest.split_once('?').map_or("", |(_, query)| query);
        let mut names = query
            .split('&')
            .filter(|it| !it.is_empty())
            .map(|parameter| parameter.split('=').next().unwrap_or_default());
        ensure!(
            names.all(|name| PARAMETERS.contains(&name)),
            "the database's URL has a parameter that is not known; there are {}",
            PARAMETERS.join(", ")
        );
        let says = |name: &str| query.split('&').any(|it| it.starts_with(name));
        let mut options: PgConnectOptions = url.parse().context("reading the database's URL")?;
        ensure!(
            options.get_database().is_some_and(|name| !name.is_empty()),
            "the database's URL names no database: write postgres://USER:PASSWORD@HOST:5432/DATABASE"
        );
        let is_socket = options.get_socket().is_some();
        if !says("sslmode=") {
            let safe = match is_socket {
                true => PgSslMode::Disable,
                false => PgSslMode::VerifyFull,
            };
            options = options.ssl_mode(safe);
        }
        if matches!(options.get_ssl_mode(), PgSslMode::Allow | PgSslMode::Prefer) {
            bail!(
                "sslmode=allow and sslmode=prefer let anybody on the way take the encryption off: \
                 write sslmode=verify-full, or sslmode=disable where the way is safe"
            );
        }
        check_files(query)?;
        if options.get_application_name().is_none() {
            options = options.application_name("seawall");
        }
        Ok(Self {
            options: options.disable_statement_logging(),
        })
    }
}

/// Certificates and keys are read from files, which are looked for at once.
fn check_files(query: &str) -> anyhow::Result<()> {
    for (name, value) in query.split('&').filter_map(|it| it.split_once('=')) {
        if !matches!(name, "sslrootcert" | "sslcert" | "sslkey") {
            continue;
        }
        let file = value.replace("%2F", "/").replace("%2f", "/");
        // It may be a key: what is no path is not repeated.
        ensure!(
            file.starts_with('/'),
            "{name} in the database's URL is no absolute path of a file"
        );
        File::open(&file).with_context(|| format!("reading {name} of the database, {file}"))?;
    }
    Ok(())
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let options = &self.options;
        let database = options.get_database().unwrap_or_default();
        write!(f, "the PostgreSQL database {database:?} ")?;
        match options.get_socket() {
            Some(socket) => write!(f, "in {}", socket.display()),
            None => write!(f, "at {}:{}", options.get_host(), options.get_port()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refused(url: &str) -> String {
        let error = Place::parse(url).err().expect(url);
        format!("{error:#}")
    }

    fn mode(url: &str) -> String {
        let place = Place::parse(url).expect(url);
        format!("{:?}", place.options.get_ssl_mode())
    }

    #[test]
    fn without_a_wish_the_server_is_verified_but_not_on_a_socket() {
        assert_eq!(mode("postgres://u:p@db.example.com/seawall"), "VerifyFull");
        assert_eq!(
            mode("postgresql://u:p@127.0.0.1:5432/seawall"),
            "VerifyFull"
        );
        assert_eq!(mode("postgres://u:p@db/seawall?sslmode=disable"), "Disable");
        assert_eq!(mode("postgres://u:p@db/seawall?sslmode=require"), "Require");
        assert_eq!(
            mode("postgres://u@localhost/seawall?host=/run/postgresql"),
            "Disable"
        );
    }

    #[test]
    fn what_is_wrong_is_said_and_the_password_is_not() {
        for (url, words) in [
            ("postgres://u:hunter2@db", "names no database"),
            ("postgres://u:hunter2@db/", "names no database"),
            ("postgres://u:1/hunter2@db/x", "percent-encode"),
            ("postgres://u:1#hunter2@db/x", "percent-encode"),
            ("postgres://u:1?hunter2@db/x", "percent-encode"),
            (
                "postgres://u:hunter2@db:port/x",
                "reading the database's URL",
            ),
            (
                "postgres://u:hunter2@db/x?sslmode=prefer",
                "sslmode=verify-full",
            ),
            (
                "postgres://u:hunter2@db/x?sslmode=allow",
                "sslmode=verify-full",
            ),
            (
                "postgres://u:hunter2@db/x?sslmode=hunter",
                "reading the database's URL",
            ),
            ("postgres://u@db/x?sslmod=verify-full", "is not known"),
            ("postgres://u@db/x?hunter2", "is not known"),
            ("postgres://u@db/x?password=hunter2", "is not known"),
            (
                "postgres://u:hunter2@db/x?sslrootcert=/not/there.crt",
                "/not/there.crt",
            ),
        ] {
            let error = refused(url);
            assert!(error.contains(words), "{url}: {error}");
            assert!(!error.contains("hunter2"), "{url}: {error}");
        }
    }

    #[test]
    fn it_is_named_without_user_and_password() {
        let place = Place::parse("postgres://u:hunter2@db.example.com/seawall").expect("a place");
        assert_eq!(
            place.to_string(),
            "the PostgreSQL database \"seawall\" at db.example.com:5432"
        );
    }
}
