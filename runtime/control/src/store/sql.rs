//! The one set of queries, for both databases. SQLite takes PostgreSQL's `$1` placeholders, so the
//! texts are the same; only the types of the pool differ, hence a macro and not a generic.

use async_trait::async_trait;
use headnode_model::task::Task;
use serde::de::DeserializeOwned;
use serde_json::{Map, Value};
use sqlx::{PgPool, Postgres, QueryBuilder, Row, Sqlite, SqlitePool};
use uuid::Uuid;

use super::record::{Core, ServerRecord};
use super::{ServerFilter, Servers, Settings, Store, StoreError, TaskRecord, Tasks};

/// A store on SQLite.
pub(super) struct SqliteStore(pub SqlitePool);
/// A store on PostgreSQL.
pub(super) struct PgStore(pub PgPool);

/// Explains a database's error to an operator.
pub(super) fn explain(error: &sqlx::Error) -> String {
    let text = match error {
        sqlx::Error::Database(inner) => inner.message().to_owned(),
        sqlx::Error::PoolTimedOut => "no connection became free in time".to_owned(),
        other => other.to_string(),
    };
    let code = match error {
        sqlx::Error::Database(inner) => inner.code().map(|code| code.into_owned()),
        _ => None,
    };
    // SQLite's primary result codes are the low byte (https://sqlite.org/rescode.html).
    let primary = code.as_deref().and_then(|code| code.parse::<u32>().ok()).map(|code| code & 0xff);
    let hint = match primary {
        Some(5 | 6) => "another process holds the database; is a second sdc-control running?",
        Some(8) => "the file or its file system is read-only",
        Some(10) => "the disk fails: look at `zpool status` and the kernel's log",
        Some(11 | 26) => {
            "the file is damaged or no database: move it away and restart to begin anew (servers \
             register again), or restore a snapshot of its dataset"
        }
        Some(13) => "the disk is full: free space on the pool, then restart",
        Some(14) => "the file cannot be opened: check that its folder exists and may be written",
        _ => return text,
    };
    format!("{text}; {hint}")
}

fn query(doing: &'static str) -> impl Fn(sqlx::Error) -> StoreError {
    move |source| StoreError::Query { doing, reason: explain(&source), source }
}

fn document<T: DeserializeOwned>(
    what: &'static str,
    id: &str,
    text: &str,
) -> Result<T, StoreError> {
    serde_json::from_str(text).map_err(|error| StoreError::Document {
        what,
        id: id.to_owned(),
        reason: error.to_string(),
    })
}

fn encode<T: serde::Serialize>(
    what: &'static str,
    id: &str,
    value: &T,
) -> Result<String, StoreError> {
    serde_json::to_string(value).map_err(|error| StoreError::Document {
        what,
        id: id.to_owned(),
        reason: format!("encoding: {error}"),
    })
}

fn record(
    uuid: &str,
    version: i64,
    core: &str,
    sysinfo: &str,
    report: &str,
) -> Result<ServerRecord, StoreError> {
    let bad = |error: uuid::Error| StoreError::Document {
        what: "server",
        id: uuid.to_owned(),
        reason: error.to_string(),
    };
    Ok(ServerRecord {
        uuid: uuid.parse().map_err(bad)?,
        version,
        core: document::<Core>("server", uuid, core)?,
        sysinfo: document::<Map<String, Value>>("server", uuid, sysinfo)?,
        report: document::<Map<String, Value>>("server", uuid, report)?,
    })
}

fn task_record(id: &str, task: &str, params: &str) -> Result<TaskRecord, StoreError> {
    Ok(TaskRecord {
        task: document::<Task>("task", id, task)?,
        params: document::<Value>("task", id, params)?,
    })
}

/// Milliseconds since 1970 of a task's RFC 3339 time; 0 when it is none.
fn created(task: &Task) -> i64 {
    time::OffsetDateTime::parse(&task.timestamp, &time::format_description::well_known::Rfc3339)
        .map(|at| i64::try_from(at.unix_timestamp_nanos() / 1_000_000).unwrap_or(0))
        .unwrap_or(0)
}

const GET: &str = "SELECT uuid, version, core, sysinfo, report FROM servers WHERE uuid = $1";
const INSERT: &str = "INSERT INTO servers (uuid, version, hostname, headnode, setup, reserved, \
    reservoir, core, sysinfo, report) VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10) \
    ON CONFLICT (uuid) DO NOTHING";
const REPLACE: &str = "UPDATE servers SET version = version + 1, hostname = $3, headnode = $4, \
    setup = $5, reserved = $6, reservoir = $7, core = $8, sysinfo = $9 \
    WHERE uuid = $1 AND version = $2";
const PUT_REPORT: &str = "UPDATE servers SET report = $2 WHERE uuid = $1";
const DELETE: &str = "DELETE FROM servers WHERE uuid = $1";
const GET_TASK: &str = "SELECT id, task, params FROM tasks WHERE id = $1";
const PUT_TASK: &str = "INSERT INTO tasks (id, server_uuid, kind, finished, created, params, task) \
    VALUES ($1, $2, $3, $4, $5, $6, $7) \
    ON CONFLICT (id) DO UPDATE SET finished = excluded.finished, \
    params = excluded.params, task = excluded.task";
const UNFINISHED: &str = "SELECT id, task, params FROM tasks WHERE finished = 0 ORDER BY created";
const PRUNE: &str = "DELETE FROM tasks WHERE finished = 1 AND id NOT IN \
    (SELECT id FROM tasks WHERE finished = 1 ORDER BY created DESC, id LIMIT $1)";
const GET_SETTING: &str = "SELECT value FROM settings WHERE name = $1";
const PUT_SETTING: &str = "INSERT INTO settings (name, value) VALUES ($1, $2) \
    ON CONFLICT (name) DO UPDATE SET value = excluded.value";

macro_rules! implement {
    ($store:ty, $database:ty) => {
        #[async_trait]
        impl Servers for $store {
            async fn list(&self, filter: &ServerFilter) -> Result<Vec<ServerRecord>, StoreError> {
                let sysinfo = if filter.sysinfo { "sysinfo" } else { "'{}' AS sysinfo" };
                let report = if filter.report { "report" } else { "'{}' AS report" };
                let mut sql = QueryBuilder::<$database>::new(format!(
                    "SELECT uuid, version, core, {sysinfo}, {report} FROM servers WHERE 1 = 1"
                ));
                let flags = [
                    (" AND setup = ", filter.setup),
                    (" AND headnode = ", filter.headnode),
                    (" AND reserved = ", filter.reserved),
                    (" AND reservoir = ", filter.reservoir),
                ];
                for (clause, flag) in flags {
                    if let Some(flag) = flag {
                        sql.push(clause).push_bind(i64::from(flag));
                    }
                }
                if let Some(hostname) = &filter.hostname {
                    sql.push(" AND hostname = ").push_bind(hostname.clone());
                }
                if let Some(uuids) = &filter.uuids {
                    // `IN ()` is no SQL for PostgreSQL; NULL is equal to nothing.
                    sql.push(" AND uuid IN (NULL");
                    for uuid in uuids {
                        sql.push(", ").push_bind(uuid.to_string());
                    }
                    sql.push(")");
                }
                sql.push(" ORDER BY uuid LIMIT ");
                sql.push_bind(filter.limit.map_or(i64::MAX, i64::from));
                sql.push(" OFFSET ").push_bind(filter.offset.map_or(0, i64::from));
                let doing = query("listing servers");
                let rows = sql.build().fetch_all(&self.0).await.map_err(&doing)?;
                rows.iter()
                    .map(|row| {
                        let text = |column| row.try_get::<&str, _>(column).map_err(&doing);
                        let version = row.try_get("version").map_err(&doing)?;
                        let (core, sysinfo) = (text("core")?, text("sysinfo")?);
                        record(text("uuid")?, version, core, sysinfo, text("report")?)
                    })
                    .collect()
            }

            async fn get(&self, uuid: Uuid) -> Result<Option<ServerRecord>, StoreError> {
                let row = sqlx::query_as::<_, (String, i64, String, String, String)>(GET)
                    .bind(uuid.to_string())
                    .fetch_optional(&self.0)
                    .await
                    .map_err(query("reading a server"))?;
                row.map(|(uuid, version, core, sysinfo, report)| {
                    record(&uuid, version, &core, &sysinfo, &report)
                })
                .transpose()
            }

            async fn insert(&self, server: &ServerRecord) -> Result<bool, StoreError> {
                let uuid = server.uuid.to_string();
                let done = sqlx::query(INSERT)
                    .bind(&uuid)
                    .bind(server.version)
                    .bind(server.core.wanted_hostname())
                    .bind(i64::from(server.core.headnode))
                    .bind(i64::from(server.core.setup))
                    .bind(i64::from(server.core.reserved))
                    .bind(i64::from(server.core.reservoir))
                    .bind(encode("server", &uuid, &server.core)?)
                    .bind(encode("server", &uuid, &server.sysinfo)?)
                    .bind(encode("server", &uuid, &server.report)?)
                    .execute(&self.0)
                    .await
                    .map_err(query("adding a server"))?;
                Ok(done.rows_affected() == 1)
            }

            async fn replace(&self, server: &ServerRecord) -> Result<bool, StoreError> {
                let uuid = server.uuid.to_string();
                let done = sqlx::query(REPLACE)
                    .bind(&uuid)
                    .bind(server.version)
                    .bind(server.core.wanted_hostname())
                    .bind(i64::from(server.core.headnode))
                    .bind(i64::from(server.core.setup))
                    .bind(i64::from(server.core.reserved))
                    .bind(i64::from(server.core.reservoir))
                    .bind(encode("server", &uuid, &server.core)?)
                    .bind(encode("server", &uuid, &server.sysinfo)?)
                    .execute(&self.0)
                    .await
                    .map_err(query("writing a server"))?;
                Ok(done.rows_affected() == 1)
            }

            async fn put_report(
                &self,
                uuid: Uuid,
                report: &Map<String, Value>,
            ) -> Result<bool, StoreError> {
                let uuid = uuid.to_string();
                let done = sqlx::query(PUT_REPORT)
                    .bind(&uuid)
                    .bind(encode("server", &uuid, report)?)
                    .execute(&self.0)
                    .await
                    .map_err(query("writing a server's status"))?;
                Ok(done.rows_affected() == 1)
            }

            async fn delete(&self, uuid: Uuid) -> Result<bool, StoreError> {
                let done = sqlx::query(DELETE)
                    .bind(uuid.to_string())
                    .execute(&self.0)
                    .await
                    .map_err(query("deleting a server"))?;
                Ok(done.rows_affected() == 1)
            }
        }

        #[async_trait]
        impl Tasks for $store {
            async fn get_task(&self, id: Uuid) -> Result<Option<TaskRecord>, StoreError> {
                let row = sqlx::query_as::<_, (String, String, String)>(GET_TASK)
                    .bind(id.to_string())
                    .fetch_optional(&self.0)
                    .await
                    .map_err(query("reading a task"))?;
                row.map(|(id, task, params)| task_record(&id, &task, &params)).transpose()
            }

            async fn put_task(&self, record: &TaskRecord) -> Result<(), StoreError> {
                let id = record.task.id.to_string();
                sqlx::query(PUT_TASK)
                    .bind(&id)
                    .bind(record.task.server_uuid.to_string())
                    .bind(&record.task.task)
                    .bind(i64::from(record.task.status.is_over()))
                    .bind(created(&record.task))
                    .bind(encode("task", &id, &record.params)?)
                    .bind(encode("task", &id, &record.task)?)
                    .execute(&self.0)
                    .await
                    .map_err(query("writing a task"))?;
                Ok(())
            }

            async fn unfinished(&self) -> Result<Vec<TaskRecord>, StoreError> {
                let rows = sqlx::query_as::<_, (String, String, String)>(UNFINISHED)
                    .fetch_all(&self.0)
                    .await
                    .map_err(query("listing unfinished tasks"))?;
                rows.iter().map(|(id, task, params)| task_record(id, task, params)).collect()
            }

            async fn prune(&self, keep: u32) -> Result<u64, StoreError> {
                let done = sqlx::query(PRUNE)
                    .bind(i64::from(keep))
                    .execute(&self.0)
                    .await
                    .map_err(query("forgetting old tasks"))?;
                Ok(done.rows_affected())
            }
        }

        #[async_trait]
        impl Settings for $store {
            async fn get_setting(&self, name: &str) -> Result<Option<Value>, StoreError> {
                let row = sqlx::query_as::<_, (String,)>(GET_SETTING)
                    .bind(name)
                    .fetch_optional(&self.0)
                    .await
                    .map_err(query("reading a setting"))?;
                row.map(|(text,)| document("setting", name, &text)).transpose()
            }

            async fn put_setting(&self, name: &str, value: &Value) -> Result<(), StoreError> {
                sqlx::query(PUT_SETTING)
                    .bind(name)
                    .bind(value.to_string())
                    .execute(&self.0)
                    .await
                    .map_err(query("writing a setting"))?;
                Ok(())
            }
        }

        #[async_trait]
        impl Store for $store {
            async fn ping(&self) -> Result<(), StoreError> {
                sqlx::query("SELECT 1")
                    .execute(&self.0)
                    .await
                    .map(drop)
                    .map_err(query("asking the database"))
            }

            async fn close(&self) {
                self.0.close().await;
            }
        }
    };
}

implement!(SqliteStore, Sqlite);
implement!(PgStore, Postgres);

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_full_disk_is_told_as_such() {
        let pool = SqlitePool::connect("sqlite::memory:").await.unwrap();
        sqlx::query("CREATE TABLE t (x TEXT)").execute(&pool).await.unwrap();
        sqlx::query("PRAGMA max_page_count = 3").execute(&pool).await.unwrap();
        let mut insert = Ok(());
        for _ in 0..100 {
            let text = "x".repeat(1000);
            insert =
                sqlx::query("INSERT INTO t VALUES ($1)").bind(text).execute(&pool).await.map(drop);
            if insert.is_err() {
                break;
            }
        }
        let text = explain(&insert.unwrap_err());
        assert!(text.ends_with("the disk is full: free space on the pool, then restart"), "{text}");
    }
}
