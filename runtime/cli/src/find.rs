//! Which server is meant: UUID, the beginning of one, or host name.

use headnode_client::{Cnapi, ServerQuery};
use headnode_model::server::Server;
use uuid::Uuid;

use crate::outcome::{Failure, Result};

/// The fewest characters of a UUID that are taken for its beginning.
const PREFIX: usize = 4;

/// The server that `name` means, without its costly parts.
///
/// # Errors
/// When none or several are meant, or CNAPI fails.
pub async fn server(cnapi: &Cnapi, name: &str) -> Result<Server> {
    let servers = cnapi.list_servers(&ServerQuery::default()).await?;
    Ok(pick(&servers, name)?.clone())
}

/// The UUID that `name` means; a full one is believed without asking.
///
/// # Errors
/// As [`server`].
pub async fn uuid(cnapi: &Cnapi, name: &str) -> Result<Uuid> {
    match name.parse() {
        Ok(uuid) if name.len() == 36 => Ok(uuid),
        _ => Ok(server(cnapi, name).await?.uuid),
    }
}

fn pick<'a>(servers: &'a [Server], name: &str) -> Result<&'a Server> {
    let lower = name.to_ascii_lowercase();
    let by_name: Vec<_> = servers.iter().filter(|server| server.hostname == name).collect();
    let by_uuid =
        |server: &&Server| lower.len() >= PREFIX && server.uuid.to_string().starts_with(&lower);
    let found = if by_name.is_empty() { servers.iter().filter(by_uuid).collect() } else { by_name };
    match found.as_slice() {
        [server] => Ok(server),
        [] => Err(Failure::not_found(format!(
            "there is no server {name:?}: give a UUID, its first {PREFIX} characters or more, or a \
             host name; `sdc server list` shows them"
        ))),
        several => {
            let list: Vec<_> =
                several.iter().map(|s| format!("\n  {} {}", s.uuid, s.hostname)).collect();
            Err(Failure::usage(format!("{name:?} means several servers:{}", list.concat())))
        }
    }
}
