//! The description of all calls, made from the code.

use axum::Json;
use utoipa::OpenApi;

use super::cnapi::{boot, events, ping, platforms, servers, tasks};
use super::health;

/// The description.
#[derive(OpenApi)]
#[openapi(
    info(
        title = "sdc-control",
        description = "CNAPI's core: servers, boot parameters, platforms and tasks. Errors have \
                       the body {code, message, errors: [{field, code, message}]}; the header \
                       x-request-id is taken over and sent back."
    ),
    paths(
        ping::ping,
        servers::list,
        servers::get,
        servers::update,
        servers::delete,
        servers::sysinfo,
        servers::setup,
        servers::reboot,
        events::heartbeat,
        events::status,
        boot::get_default,
        boot::set_default,
        boot::update_default,
        boot::get,
        boot::set,
        boot::update,
        platforms::list,
        tasks::get,
        tasks::wait,
        health::metrics,
        health::healthz,
    )
)]
pub struct Description;

/// `GET /openapi.json`.
pub(super) async fn serve() -> Json<utoipa::openapi::OpenApi> {
    Json(Description::openapi())
}
