//! A PostgreSQL server of a test's own, from Debian's package `postgresql`. It ends with its handle, and
//! with this process however that ends. The tests of the library use this file too.

use std::fs::{self, File, Permissions};
use std::net::TcpListener;
use std::os::unix::fs::{PermissionsExt, chown};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, bail, ensure};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

/// The superuser, and who owns what the tests make.
pub const USER: &str = "postgres";
pub const PASSWORD: &str = "a secret/of#all?tests@here";
/// The same inside a URL.
pub const PASSWORD_IN_URL: &str = "a%20secret%2Fof%23all%3Ftests%40here";
const PATIENCE: Duration = Duration::from_secs(30);

/// Nobody's id: initdb and the server refuse root.
const NOBODY: &str = "65534";

/// Runs the server until the pipe from the test closes, which it also does when the test is killed; then
/// removes the folder that `$1` names, if it names one.
const KEEPER: &str = r#"gone=$1; shift; "$@" & server=$!; read -r _; kill -QUIT $server; wait $server; [ -z "$gone" ] || rm -rf -- "$gone""#;

pub struct Postgres {
    programs: PathBuf,
    directory: PathBuf,
    pub port: u16,
    options: Vec<String>,
    /// Removed when the server ends.
    gone: Option<PathBuf>,
    keeper: Option<Child>,
}

impl Postgres {
    /// Starts one with its data in `directory`, which has to be there and is its own. It listens on
    /// loopback and on a socket in `directory`; `options` are more of its settings.
    pub fn start(directory: &Path, options: &[&str]) -> anyhow::Result<Self> {
        let mut this = Self::made(directory, options)?;
        this.resume()?;
        Ok(this)
    }

    /// Its data goes with it, also when this process just ends.
    pub fn for_this_process() -> anyhow::Result<Self> {
        let directory = tempfile::Builder::new().prefix("seawall-pg-").tempdir()?;
        let mut this = Self::made(directory.path(), &[])?;
        this.gone = Some(directory.keep());
        this.resume()?;
        Ok(this)
    }

    /// With its data made, and not running yet.
    fn made(directory: &Path, options: &[&str]) -> anyhow::Result<Self> {
        let programs = programs()?;
        fs::set_permissions(directory, Permissions::from_mode(0o755))?;
        let password = directory.join("password");
        fs::write(&password, PASSWORD)?;
        if as_nobody().first().is_some_and(|it| *it == "setpriv") {
            let nobody = NOBODY.parse().ok();
            chown(directory, nobody, nobody)?;
            for entry in fs::read_dir(directory)? {
                chown(entry?.path(), nobody, nobody)?;
            }
        }
        let mut initdb = as_another(&programs.join("initdb"));
        initdb
            .arg("--pgdata")
            .arg(directory.join("data"))
            .arg(format!("--pwfile={}", password.display()))
            .args(["--username", USER, "--auth=scram-sha-256", "--no-sync"])
            .args(["--encoding=UTF8", "--locale=C.UTF-8", "--no-instructions"])
            .current_dir(directory);
        let made = initdb.output().context("starting initdb")?;
        ensure!(
            made.status.success(),
            "initdb: {}",
            String::from_utf8_lossy(&made.stderr)
        );
        Ok(Self {
            programs,
            directory: directory.to_owned(),
            port: TcpListener::bind("127.0.0.1:0")?.local_addr()?.port(),
            options: options.iter().map(ToString::to_string).collect(),
            gone: None,
            keeper: None,
        })
    }

    /// Starts it again on the data that it left.
    pub fn resume(&mut self) -> anyhow::Result<()> {
        ensure!(self.keeper.is_none(), "it runs");
        let log = self.directory.join("postgres.log");
        let out = File::options().create(true).append(true).open(&log)?;
        let mut command = Command::new("sh");
        command
            .args(["-c", KEEPER, "sh"])
            .arg(self.gone.as_deref().unwrap_or(Path::new("")));
        command.args(as_nobody());
        command
            .arg(self.programs.join("postgres"))
            .arg("-D")
            .arg(self.directory.join("data"))
            .arg("-k")
            .arg(&self.directory)
            .args(["-p", &self.port.to_string()])
            .args(["-c", "listen_addresses=127.0.0.1", "-c", "fsync=off"])
            .args(self.options.iter().flat_map(|it| ["-c", it]))
            .current_dir(&self.directory)
            .stdin(Stdio::piped())
            .stdout(out.try_clone()?)
            .stderr(out);
        self.keeper = Some(command.spawn().context("starting postgres")?);
        let deadline = Instant::now() + PATIENCE;
        while self.sql("postgres", "SELECT 1").is_err() {
            if Instant::now() > deadline {
                bail!("postgres: {}", fs::read_to_string(&log).unwrap_or_default());
            }
            std::thread::sleep(Duration::from_millis(30));
        }
        Ok(())
    }

    /// Ends it at once, as a crash would: every connection is cut.
    pub fn stop(&mut self) -> anyhow::Result<()> {
        let mut keeper = self.keeper.take().context("it does not run")?;
        // A frozen one would never end.
        let _ = self.freeze(false);
        drop(keeper.stdin.take());
        keeper.wait()?;
        Ok(())
    }

    /// Stops all of its processes where they are, or lets them go on: connections stay open and nothing
    /// comes over them.
    pub fn freeze(&self, frozen: bool) -> anyhow::Result<()> {
        let signal = match frozen {
            true => Signal::SIGSTOP,
            false => Signal::SIGCONT,
        };
        let file = fs::read_to_string(self.directory.join("data/postmaster.pid"))?;
        let server = file.lines().next().context("it has a process id")?;
        // The server first, or it starts a process for who asks meanwhile.
        kill(Pid::from_raw(server.parse()?), signal)?;
        let children = fs::read_to_string(format!("/proc/{server}/task/{server}/children"))?;
        for child in children.split_whitespace() {
            kill(Pid::from_raw(child.parse()?), signal)?;
        }
        Ok(())
    }

    /// What the statements answer, as the superuser.
    pub fn sql(&self, database: &str, statements: &str) -> anyhow::Result<String> {
        let asked = Command::new(self.programs.join("psql"))
            .args(["-X", "-q", "-t", "-A", "-v", "ON_ERROR_STOP=1"])
            .args(["-h".as_ref(), self.directory.as_os_str()])
            .args(["-p", &self.port.to_string(), "-U", USER])
            .args(["-d", database, "-c", statements])
            .env("PGPASSWORD", PASSWORD)
            .output()
            .context("starting psql")?;
        let error = String::from_utf8_lossy(&asked.stderr);
        ensure!(asked.status.success(), "{statements}: {error}");
        Ok(String::from_utf8(asked.stdout)?.trim().to_owned())
    }

    /// The URL of a database by its socket.
    pub fn socket_url(&self, database: &str) -> String {
        let (port, socket) = (self.port, self.directory.display());
        format!("postgres://{USER}:{PASSWORD_IN_URL}@localhost:{port}/{database}?host={socket}")
    }

    /// The same by TCP; `more` are parameters.
    pub fn tcp_url(&self, database: &str, more: &str) -> String {
        let port = self.port;
        format!("postgres://{USER}:{PASSWORD_IN_URL}@127.0.0.1:{port}/{database}?{more}")
    }
}

impl Drop for Postgres {
    fn drop(&mut self) {
        if self.keeper.is_some() {
            let _ = self.stop();
        }
    }
}

fn as_another(program: &Path) -> Command {
    let prefix = as_nobody();
    let Some((first, rest)) = prefix.split_first() else {
        return Command::new(program);
    };
    let mut command = Command::new(first);
    command.args(rest).arg(program);
    command
}

/// What runs a program as somebody else than root: in a user namespace that calls us nobody, which also
/// works inside another; or, where those are blocked, as nobody.
fn as_nobody() -> &'static [&'static str] {
    const MAPPED: &[&str] = &[
        "unshare",
        "--user",
        "--map-user=65534",
        "--map-group=65534",
        "--",
    ];
    const REAL: &[&str] = &[
        "setpriv",
        "--reuid=65534",
        "--regid=65534",
        "--clear-groups",
        "--",
    ];
    if !nix::unistd::geteuid().is_root() {
        return &[];
    }
    static WORKS: std::sync::OnceLock<bool> = std::sync::OnceLock::new();
    let works = WORKS.get_or_init(|| {
        let tried = Command::new(MAPPED[0])
            .args(&MAPPED[1..])
            .arg("true")
            .stderr(Stdio::null())
            .status();
        tried.is_ok_and(|status| status.success())
    });
    if *works { MAPPED } else { REAL }
}

/// The folder of the newest server's programs: Debian keeps them out of PATH.
fn programs() -> anyhow::Result<PathBuf> {
    let mut found: Vec<(u32, PathBuf)> = fs::read_dir("/usr/lib/postgresql")
        .into_iter()
        .flatten()
        .flatten()
        .filter_map(|entry| Some((entry.file_name().to_str()?.parse().ok()?, entry.path())))
        .map(|(version, path)| (version, path.join("bin")))
        .filter(|(_, path)| path.join("initdb").exists())
        .collect();
    found.sort();
    let newest = found.pop().map(|(_, path)| path);
    let on_path = || {
        let path = std::env::var_os("PATH")?;
        std::env::split_paths(&path).find(|it| it.join("initdb").exists())
    };
    newest
        .or_else(on_path)
        .context("PostgreSQL is missing: sudo apt-get install postgresql")
}
