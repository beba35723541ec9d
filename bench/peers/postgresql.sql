CREATE TABLE room (id int PRIMARY KEY, room_id text NOT NULL UNIQUE);
CREATE TABLE member (username text, room_key int REFERENCES room (id), PRIMARY KEY (username, room_key));
CREATE TABLE message (
    seq bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY, room_key int NOT NULL REFERENCES room (id), id uuid NOT NULL,
    sender text NOT NULL, content text NOT NULL, created_at timestamptz NOT NULL
);
