-- One dialect for SQLite and PostgreSQL: TEXT and BIGINT only. Documents are JSON in TEXT columns;
-- what lists are filtered by has a column of its own, written together with its document.

CREATE TABLE servers (
    uuid      TEXT   NOT NULL PRIMARY KEY,
    -- Grows with each write of `core`; a writer that read an older one starts again.
    version   BIGINT NOT NULL,
    hostname  TEXT   NOT NULL,
    headnode  BIGINT NOT NULL,
    setup     BIGINT NOT NULL,
    reserved  BIGINT NOT NULL,
    reservoir BIGINT NOT NULL,
    core      TEXT   NOT NULL,
    sysinfo   TEXT   NOT NULL,
    report    TEXT   NOT NULL
);

CREATE INDEX servers_hostname ON servers (hostname);

CREATE TABLE tasks (
    id          TEXT   NOT NULL PRIMARY KEY,
    server_uuid TEXT   NOT NULL,
    kind        TEXT   NOT NULL,
    -- 1 once nothing more will happen.
    finished    BIGINT NOT NULL,
    -- Milliseconds since 1970.
    created     BIGINT NOT NULL,
    params      TEXT   NOT NULL,
    task        TEXT   NOT NULL
);

CREATE INDEX tasks_unfinished ON tasks (finished, created);

CREATE TABLE settings (
    name  TEXT NOT NULL PRIMARY KEY,
    value TEXT NOT NULL
);
