-- Whether a session ever had a reader: the grace for one to come back runs in the next gateway, too. Of sessions that an
-- earlier version opened it is not known, and only their lease ends them.
ALTER TABLE workers ADD COLUMN attended INTEGER NOT NULL DEFAULT 0;
