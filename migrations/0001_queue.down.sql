-- Takes the queue away, with everything in it.

DROP FUNCTION announce(text, text), key_lock(text, text), readable(timestamptz);
DROP TABLE channel, worker, attempt, job;
DROP SEQUENCE job_position;
DROP TYPE job_state;
