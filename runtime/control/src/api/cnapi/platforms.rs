//! Platform images on the headnode.

use std::collections::BTreeMap;

use axum::Json;
use axum::extract::{RawQuery, State};
use serde::Serialize;
use utoipa::ToSchema;

use crate::api::App;
use crate::api::error::ApiError;
use crate::api::params::Fields;
use crate::fleet::platforms;

/// A platform image.
#[derive(Debug, Default, Serialize, ToSchema)]
pub(crate) struct PlatformView {
    /// `linux` or `smartos`; only with `os=true`.
    #[serde(skip_serializing_if = "Option::is_none")]
    os: Option<&'static str>,
    /// Whether it is the newest one; with `os=true`, of its operating system.
    #[serde(skip_serializing_if = "Option::is_none")]
    latest: Option<bool>,
}

/// The platform images by stamp.
#[utoipa::path(get, path = "/platforms", tag = "cnapi",
    params(("os" = Option<bool>, Query, description = "Tell the operating systems too")),
    responses((status = 200, body = BTreeMap<String, PlatformView>)))]
pub(crate) async fn list(
    State(app): State<App>,
    RawQuery(query): RawQuery,
) -> Result<Json<BTreeMap<String, PlatformView>>, ApiError> {
    let mut fields = Fields::from_query(query.as_deref());
    let with_os = fields.flag("os").unwrap_or(false);
    fields.finish()?;
    let list = app.fleet.platform_list().await;
    let newest: Vec<&str> = if with_os {
        let of = |os| platforms::latest(&list, move |platform| platform.os == Some(os));
        ["smartos", "linux"].into_iter().filter_map(of).collect()
    } else {
        platforms::latest(&list, |_| true).into_iter().collect()
    };
    let view = |(name, platform): (&String, &platforms::Platform)| {
        let latest = newest.contains(&name.as_str()).then_some(true);
        let os = platform.os.filter(|_| with_os);
        (name.clone(), PlatformView { os, latest })
    };
    Ok(Json(list.iter().map(view).collect()))
}
