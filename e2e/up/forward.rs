//! Bytes from a loopback port outside to a Unix socket, and from that to a port inside: the file system is
//! what both sides of the namespaces share.

use std::net::{SocketAddr, TcpListener as StdTcpListener, TcpStream as StdTcpStream};
use std::os::unix::net::UnixStream as StdUnixStream;
use std::path::PathBuf;
use std::thread;

use tokio::net::{TcpStream, UnixListener};
use tokio::task::JoinSet;

/// More at once than a person and their clients open.
const CONNECTIONS: usize = 256;

/// Inside: answers at the socket with what the port inside says.
pub fn serve(socket: PathBuf, to: SocketAddr) -> anyhow::Result<impl Future<Output = ()>> {
    let _ = std::fs::remove_file(&socket);
    let listener = UnixListener::bind(&socket)?;
    Ok(async move {
        let mut connections = JoinSet::new();
        while let Ok((mut outer, _)) = listener.accept().await {
            while connections.try_join_next().is_some() {}
            if connections.len() >= CONNECTIONS {
                continue;
            }
            connections.spawn(async move {
                if let Ok(mut inner) = TcpStream::connect(to).await {
                    let _ = inner.set_nodelay(true);
                    // Whichever side ends it, ends it.
                    let _ = tokio::io::copy_bidirectional(&mut outer, &mut inner).await;
                }
            });
        }
    })
}

/// Outside: answers at the port with what the socket says, for as long as this process lives.
pub fn listen(listener: StdTcpListener, socket: PathBuf) {
    thread::spawn(move || {
        for client in listener.incoming().flatten() {
            let Ok(server) = StdUnixStream::connect(&socket) else {
                continue;
            };
            let _ = client.set_nodelay(true);
            thread::spawn(move || join(&client, &server));
        }
    });
}

/// Copies both ways until both have ended.
fn join(client: &StdTcpStream, server: &StdUnixStream) {
    thread::scope(|scope| {
        scope.spawn(|| {
            let (mut from, mut to) = (client, server);
            let _ = std::io::copy(&mut from, &mut to);
            let _ = server.shutdown(std::net::Shutdown::Write);
        });
        let (mut from, mut to) = (server, client);
        let _ = std::io::copy(&mut from, &mut to);
        let _ = client.shutdown(std::net::Shutdown::Write);
    });
}
