//! CNAPI (C§6.2): servers, boot parameters, platforms, tasks.

pub(super) mod boot;
pub(super) mod events;
pub(super) mod ping;
pub(super) mod platforms;
pub(super) mod servers;
pub(super) mod tasks;
mod update;
pub(super) mod view;

use axum::Router;
use axum::routing::{get, post, put};

use super::App;

/// CNAPI's routes.
pub(super) fn router() -> Router<App> {
    Router::new()
        .route("/ping", get(ping::ping))
        .route("/servers", get(servers::list))
        .route("/servers/{uuid}", get(servers::get).post(servers::update).delete(servers::delete))
        .route("/servers/{uuid}/sysinfo", post(servers::sysinfo))
        .route("/servers/{uuid}/setup", put(servers::setup))
        .route("/servers/{uuid}/reboot", post(servers::reboot))
        .route("/servers/{uuid}/events/heartbeat", post(events::heartbeat))
        .route("/servers/{uuid}/events/status", post(events::status))
        .route(
            "/boot/default",
            get(boot::get_default).post(boot::update_default).put(boot::set_default),
        )
        .route("/boot/{uuid}", get(boot::get).post(boot::update).put(boot::set))
        .route("/platforms", get(platforms::list))
        .route("/tasks/{uuid}", get(tasks::get))
        .route("/tasks/{uuid}/wait", get(tasks::wait))
}
