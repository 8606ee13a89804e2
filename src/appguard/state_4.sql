-- What version 4 of the state has more than version 3.

BEGIN EXCLUSIVE;

-- Where a ban was decided: the name of a host, empty where that is not known.
ALTER TABLE ban ADD COLUMN host TEXT NOT NULL DEFAULT '';

PRAGMA user_version = 4;
COMMIT;
