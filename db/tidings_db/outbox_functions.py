"""The functions of PostgreSQL by which an application publishes in its own transaction."""

from __future__ import annotations

from sqlalchemy.engine import Connection

CHANNEL = "tidings_outbox"
"""NOTIFY's channel: a transaction with rows in the outbox has committed."""
SIGNATURE = "tidings_publish(text, text, text, text)"
_LOCK = int.from_bytes(b"outbox", "big")

_STATEMENTS = (
    # `data` is text, and not json: a driver may declare its parameters as text, which PostgreSQL does not convert to
    # json. So the JSON is also kept as given. `$.**{100}`: values within 100 lists and objects.
    f"""
CREATE OR REPLACE FUNCTION tidings_publish(room text, event text, data text, client_id text DEFAULT NULL) RETURNS void
LANGUAGE plpgsql SECURITY DEFINER AS $$
#variable_conflict use_column
DECLARE
    room_key bigint;
    parsed jsonb;
BEGIN
    IF tidings_publish.event IS NULL OR tidings_publish.event !~ '^[A-Za-z][A-Za-z0-9_.:-]{{0,63}}$' THEN
        RAISE EXCEPTION 'not a name of an event: %', tidings_publish.event
            USING ERRCODE = 'invalid_parameter_value',
            HINT = 'A letter, then up to 63 of: letters of ASCII, digits, _ . : -';
    END IF;
    IF tidings_publish.event = ANY('{{ready, message, message_edited, message_deleted, reaction, member, room_added,
        room_removed, room_changed, typing, presence, preferences, profile, receipt, reported, thread, closing,
        message_append, message_finished, connect, connect_error, disconnect, disconnecting,
        newListener, removeListener}}') THEN
        RAISE EXCEPTION 'a reserved name of an event: %', tidings_publish.event
            USING ERRCODE = 'reserved_name', HINT = 'Choose another name, with a prefix of your own.';
    END IF;
    IF char_length(tidings_publish.client_id) NOT BETWEEN 1 AND 64 THEN
        RAISE EXCEPTION 'client_id has % characters', char_length(tidings_publish.client_id)
            USING ERRCODE = 'invalid_parameter_value', HINT = 'From 1 to 64 characters, or NULL.';
    END IF;
    IF octet_length(tidings_publish.data) > 65536 THEN
        RAISE EXCEPTION 'data has % bytes', octet_length(tidings_publish.data)
            USING ERRCODE = 'program_limit_exceeded', HINT = 'Up to 65,536 bytes of JSON.';
    END IF;
    parsed := tidings_publish.data::jsonb;
    IF parsed IS NULL
        OR jsonb_path_exists(parsed, 'strict $.**{{100}} ? (@.type() == "array" || @.type() == "object")')
        OR jsonb_path_exists(parsed, 'strict $.** ? (@.type() == "number" && (@ > 1.797e308 || @ < -1.797e308))')
    THEN
        RAISE EXCEPTION 'data is NULL, nested too deep, or has a number that is too large'
            USING ERRCODE = 'invalid_parameter_value',
            HINT = 'JSON of up to 100 nested lists and objects, and numbers of double precision.';
    END IF;
    SELECT id INTO room_key FROM room
        WHERE (room_id = tidings_publish.room OR name_key = lower(normalize(tidings_publish.room, NFKC)))
        AND NOT (is_private AND members = 0)
        ORDER BY room_id = tidings_publish.room DESC LIMIT 1;
    IF room_key IS NULL THEN  -- Tidings folds names as Unicode does, which not every database can
        SELECT id INTO room_key FROM room
            WHERE topic_name = tidings_publish.room AND NOT (is_private AND members = 0);
    END IF;
    IF room_key IS NULL THEN
        RAISE EXCEPTION 'no such room: %', tidings_publish.room
            USING ERRCODE = 'undefined_object', HINT = 'The name of a topic, or the room_id of a room.';
    END IF;
    INSERT INTO outbox (room_id, event, data, client_id)
        VALUES (room_key, tidings_publish.event, tidings_publish.data, tidings_publish.client_id);
    PERFORM pg_notify('{CHANNEL}', '');
END
$$""",
    f"REVOKE ALL ON FUNCTION {SIGNATURE} FROM PUBLIC",
    # The lock is held until the commit is visible. NOTIFY takes one of its own then, so it costs little more.
    f"""
CREATE OR REPLACE FUNCTION tidings_order_outbox() RETURNS trigger LANGUAGE plpgsql SECURITY DEFINER AS $$
BEGIN
    PERFORM pg_advisory_xact_lock({_LOCK});
    UPDATE outbox SET id = nextval('outbox_id_seq') WHERE id = NEW.id;
    RETURN NULL;
END
$$""",
    "REVOKE ALL ON FUNCTION tidings_order_outbox() FROM PUBLIC",
    "DROP TRIGGER IF EXISTS outbox_order ON outbox",
    "CREATE CONSTRAINT TRIGGER outbox_order AFTER INSERT ON outbox DEFERRABLE INITIALLY DEFERRED FOR EACH ROW"
    " EXECUTE FUNCTION tidings_order_outbox()",
    # The schema of the tables: nothing that the caller has in another one can take their place.
    f"""
DO $$ BEGIN
    EXECUTE format('ALTER FUNCTION {SIGNATURE} SET search_path = %I, pg_temp', current_schema());
    EXECUTE format('ALTER FUNCTION tidings_order_outbox() SET search_path = %I, pg_temp', current_schema());
END $$""",
)


def create(conn: Connection) -> None:
    """Create the functions, after the table `outbox`, or replace them. On SQLite there are none."""
    if conn.dialect.name == "postgresql":
        for statement in _STATEMENTS:
            conn.exec_driver_sql(statement)


def drop(conn: Connection) -> None:
    if conn.dialect.name == "postgresql":
        conn.exec_driver_sql(f"DROP FUNCTION {SIGNATURE}, tidings_order_outbox()")
