-- Version 1 of the daemon's private state, made as a whole or not at all; state_2.sql and those after it add to it.
-- Times are Unix seconds.

BEGIN EXCLUSIVE;

-- How far each log was read: a text only the source understands.
CREATE TABLE position (
    source TEXT NOT NULL,
    origin TEXT NOT NULL,
    text   TEXT NOT NULL,
    PRIMARY KEY (source, origin)
) WITHOUT ROWID;

-- What is counted for one key of one jail: a JSON list of [time, count, evidence] or of
-- [time, count, evidence, value, network]; the fields of `Failure`.
CREATE TABLE failure (
    jail     TEXT NOT NULL,
    key      TEXT NOT NULL,
    failures TEXT NOT NULL,
    PRIMARY KEY (jail, key)
);

-- The bans in force; ends is NULL for ever. evidence and via are JSON lists of texts.
CREATE TABLE ban (
    network   TEXT NOT NULL PRIMARY KEY,
    jail      TEXT NOT NULL,
    starts    REAL NOT NULL,
    ends      REAL,
    reason    TEXT NOT NULL,
    failures  INTEGER NOT NULL,
    evidence  TEXT NOT NULL,
    via       TEXT NOT NULL,
    automatic INTEGER NOT NULL,
    version   INTEGER NOT NULL
);
CREATE INDEX ban_ends ON ban (ends) WHERE ends IS NOT NULL;

-- What each jail counted since it exists.
CREATE TABLE total (
    jail   TEXT NOT NULL PRIMARY KEY,
    failed INTEGER NOT NULL,
    banned INTEGER NOT NULL
) WITHOUT ROWID;

CREATE TABLE setting (
    name  TEXT NOT NULL PRIMARY KEY,
    value TEXT NOT NULL
) WITHOUT ROWID;

PRAGMA application_id = 1095201380; -- APPLICATION_ID of state.py
PRAGMA user_version = 1;
COMMIT;
