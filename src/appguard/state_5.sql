-- What version 5 of the state has more than version 4.

BEGIN EXCLUSIVE;

-- Where a ban was lifted: the name of a host, empty where that is not known.
ALTER TABLE lift ADD COLUMN host TEXT NOT NULL DEFAULT '';

PRAGMA user_version = 5;
COMMIT;
