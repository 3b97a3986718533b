//! Telling systemd how far we are (`man sd_notify`).

use std::os::unix::net::UnixDatagram;

/// Sends a state, as `READY=1`, to whoever started us; nobody may want to know.
///
/// # Errors
/// When `NOTIFY_SOCKET` names a socket that does not take it.
pub fn notify(state: &str) -> std::io::Result<()> {
    let Some(path) = std::env::var_os("NOTIFY_SOCKET") else { return Ok(()) };
    let socket = UnixDatagram::unbound()?;
    let bytes = path.as_encoded_bytes();
    if let Some(name) = bytes.strip_prefix(b"@") {
        return abstract_socket(&socket, name, state);
    }
    socket.send_to(state.as_bytes(), &path).map(drop)
}

/// A socket without a file, which Linux alone has.
#[cfg(target_os = "linux")]
fn abstract_socket(socket: &UnixDatagram, name: &[u8], state: &str) -> std::io::Result<()> {
    use std::os::linux::net::SocketAddrExt;
    let address = std::os::unix::net::SocketAddr::from_abstract_name(name)?;
    socket.send_to_addr(state.as_bytes(), &address).map(drop)
}

#[cfg(not(target_os = "linux"))]
fn abstract_socket(_: &UnixDatagram, _: &[u8], _: &str) -> std::io::Result<()> {
    Err(std::io::ErrorKind::Unsupported.into())
}
