-- What the channels are set to.


-- name: set_channel
-- Keep the settings of a channel.
INSERT INTO {schema}.channel (name, ordered) VALUES (%(name)s, %(ordered)s)
ON CONFLICT (name) DO UPDATE SET ordered = excluded.ordered WHERE channel.ordered <> excluded.ordered;
