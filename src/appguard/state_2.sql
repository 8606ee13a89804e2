-- What version 2 of the state has more than version 1. Times are Unix seconds.

BEGIN EXCLUSIVE;

-- When a position was last saved: rows of logs that vanished long ago are dropped.
ALTER TABLE position ADD COLUMN saved REAL NOT NULL DEFAULT 0;
UPDATE position SET saved = CAST(strftime('%s', 'now') AS REAL);

-- The bans of one network by one jail: how many there were, when the last began and ends (NULL: never).
CREATE TABLE past (
    network TEXT NOT NULL,
    jail    TEXT NOT NULL,
    bans    INTEGER NOT NULL,
    starts  REAL NOT NULL,
    ends    REAL,
    PRIMARY KEY (network, jail)
) WITHOUT ROWID;

PRAGMA user_version = 2;
COMMIT;
