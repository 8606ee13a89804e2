-- What version 3 of the state has more than version 2.

BEGIN EXCLUSIVE;

-- Networks whose ban was lifted, with the version of the lift (microseconds): told again to whoever still has the ban.
CREATE TABLE lift (
    network TEXT NOT NULL PRIMARY KEY,
    version INTEGER NOT NULL
) WITHOUT ROWID;

PRAGMA user_version = 3;
COMMIT;
