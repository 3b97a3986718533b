//! Opening the database: SQLite by path, PostgreSQL by URL; then the migrations.

use std::path::Path;
use std::str::FromStr;
use std::sync::Arc;
use std::time::Duration;

use sqlx::migrate::{Migration, MigrationType, Migrator};
use sqlx::postgres::{PgConnectOptions, PgPoolOptions};
use sqlx::sqlite::{SqliteConnectOptions, SqliteJournalMode, SqlitePoolOptions, SqliteSynchronous};
use sqlx::{SqlStr, SqlitePool};

use super::sql::{PgStore, SqliteStore, explain};
use super::{SharedStore, StoreError};

/// Connections at most: more do not make SQLite's one writer faster, and each costs memory.
const CONNECTIONS: u32 = 4;
/// How long a writer waits for another one.
const BUSY: Duration = Duration::from_secs(10);

/// All migrations, oldest first. Never change one that was released: its checksum is in databases.
fn migrations() -> Migrator {
    Migrator::with_migrations(vec![Migration::new(
        1,
        "servers tasks".into(),
        MigrationType::Simple,
        SqlStr::from_static(include_str!("../../migrations/0001_servers_tasks.sql")),
        false,
    )])
}

/// Opens the database, makes it if it is not there, and brings its tables up to date. `place` is
/// a path or `sqlite:PATH` for SQLite, or a `postgres://` URL.
///
/// # Errors
/// [`StoreError::Open`] with one line that says what to do.
pub async fn open(place: &str) -> Result<SharedStore, StoreError> {
    if place.starts_with("postgres://") || place.starts_with("postgresql://") {
        open_postgres(place).await
    } else {
        let path = place.strip_prefix("sqlite:").unwrap_or(place);
        open_sqlite(Path::new(path.strip_prefix("//").unwrap_or(path))).await
    }
}

async fn open_sqlite(path: &Path) -> Result<SharedStore, StoreError> {
    let place = path.display().to_string();
    let wrong = |reason: String| StoreError::Open { place: place.clone(), reason };
    if let Some(folder) = path.parent().filter(|folder| !folder.as_os_str().is_empty()) {
        std::fs::create_dir_all(folder)
            .map_err(|error| wrong(format!("making folder {}: {error}", folder.display())))?;
    }
    let options = SqliteConnectOptions::new()
        .filename(path)
        .create_if_missing(true)
        .journal_mode(SqliteJournalMode::Wal)
        // A registered server must survive a power cut: the log is synced at each commit.
        .synchronous(SqliteSynchronous::Full)
        .busy_timeout(BUSY)
        // KiB (negative: not pages); the default of 2 MiB per connection is more than all rows.
        .pragma("cache_size", "-512");
    let pool = SqlitePoolOptions::new()
        .max_connections(CONNECTIONS)
        .acquire_timeout(BUSY)
        .connect_with(options)
        .await
        .map_err(|error| wrong(explain(&error)))?;
    check(&pool).await.map_err(wrong)?;
    migrations().run(&pool).await.map_err(|error| {
        wrong(match &error {
            sqlx::migrate::MigrateError::Execute(inner)
            | sqlx::migrate::MigrateError::ExecuteMigration(inner, _) => explain(inner),
            sqlx::migrate::MigrateError::VersionMissing(version) => format!(
                "it was written by a newer sdc-control (migration {version}): install that version"
            ),
            other => other.to_string(),
        })
    })?;
    Ok(Arc::new(SqliteStore(pool)))
}

/// Looks for damage before anything is written.
async fn check(pool: &SqlitePool) -> Result<(), String> {
    let result = sqlx::query_as::<_, (String,)>("PRAGMA quick_check(1)").fetch_one(pool).await;
    match result {
        Ok((text,)) if text == "ok" => Ok(()),
        // What it finds may fill several lines; the first ones name the place.
        Ok((text,)) => Err(format!(
            "the file is damaged ({}): move it away and restart to begin anew (servers register \
             again), or restore a snapshot of its dataset",
            text.replace('\n', " ")
        )),
        Err(error) => Err(explain(&error)),
    }
}

async fn open_postgres(url: &str) -> Result<SharedStore, StoreError> {
    let shown = match url.split_once('@') {
        Some((_, host)) => format!("postgres://…@{host}"),
        None => url.to_owned(),
    };
    let wrong = |reason: String| StoreError::Open { place: shown.clone(), reason };
    let options = PgConnectOptions::from_str(url).map_err(|error| wrong(error.to_string()))?;
    let pool = PgPoolOptions::new()
        .max_connections(CONNECTIONS)
        .acquire_timeout(BUSY)
        .connect_with(options)
        .await
        .map_err(|error| wrong(explain(&error)))?;
    migrations().run(&pool).await.map_err(|error| wrong(error.to_string()))?;
    Ok(Arc::new(PgStore(pool)))
}
