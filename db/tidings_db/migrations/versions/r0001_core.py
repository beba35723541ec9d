"""All tables of the first release."""

from typing import Any

import sqlalchemy as sa
from alembic import op

revision = "r0001"
down_revision = None
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "name",
        _text("key", nullable=False),
        _text("kind", nullable=False),
        sa.PrimaryKeyConstraint("key", name="pk_name"),
    )
    op.create_table(
        "user",
        _key("id"),
        _text("username", nullable=False),
        _text("username_key", nullable=False),
        _text("skeleton"),
        _text("password_hash"),
        _number("created_at", nullable=False),
        _number("last_seen"),
        sa.Column("disabled", sa.Boolean(), nullable=False),
        sa.Column("admin", sa.Boolean(), nullable=False),
        sa.PrimaryKeyConstraint("id", name="pk_user"),
        sa.UniqueConstraint("username_key", name="uq_user_username_key"),
        sa.UniqueConstraint("skeleton", name="uq_user_skeleton"),
    )
    op.create_table(
        "block",
        _key("user_id"),
        _key("blocked_id"),
        _number("created_at", nullable=False),
        sa.PrimaryKeyConstraint("user_id", "blocked_id", name="pk_block"),
        _refers("block", "user_id", "user"),
        _refers("block", "blocked_id", "user"),
        sqlite_with_rowid=False,
    )
    op.create_index("ix_block_blocked_user", "block", ["blocked_id", "user_id"])
    op.create_table(
        "session",
        _key("id"),
        _text("sid", nullable=False),
        _key("user_id"),
        _number("created_at", nullable=False),
        _number("expires_at", nullable=False),
        _number("revoked_at"),
        _text("user_agent"),
        _text("source"),
        _number("used_at"),
        sa.Column("until_logout", sa.Boolean()),
        sa.PrimaryKeyConstraint("id", name="pk_session"),
        sa.UniqueConstraint("sid", name="uq_session_sid"),
        _refers("session", "user_id", "user"),
    )
    op.create_index("ix_session_user_source", "session", ["user_id", "source"])
    op.create_table(
        "device",
        _key("id"),
        _key("user_id"),
        _text("name", nullable=False),
        _number("created_at", nullable=False),
        _number("seen_at"),
        _counter("epoch"),
        sa.PrimaryKeyConstraint("id", name="pk_device"),
        _refers("device", "user_id", "user"),
    )
    op.create_index("uq_device_user_name", "device", ["user_id", "name"], unique=True)
    op.create_table(
        "room",
        _key("id"),
        _text("room_id", nullable=False),
        _text("kind", nullable=False),
        sa.Column("is_private", sa.Boolean(), nullable=False),
        _text("topic_name"),
        _text("title"),
        _text("direct_key"),
        _text("name_key"),
        _number("first_seq", nullable=False),
        _number("first_messages", nullable=False),
        _number("last_seq", nullable=False),
        _number("messages", nullable=False),
        _number("last_message_seq", nullable=False),
        _number("members", nullable=False),
        _counter("removals"),
        _counter("changes"),
        _number("created_at", nullable=False),
        sa.PrimaryKeyConstraint("id", name="pk_room"),
        sa.UniqueConstraint("room_id", name="uq_room_room_id"),
        sa.UniqueConstraint("direct_key", name="uq_room_direct_key"),
        sa.UniqueConstraint("name_key", name="uq_room_name_key"),
    )
    op.create_table(
        "member",
        _key("room_id"),
        _key("user_id"),
        _text("role", nullable=False),
        _number("joined_at", nullable=False),
        _number("joined_seq", nullable=False),
        _counter("joined_removals"),
        _number("muted_until"),
        sa.Column("blocked", sa.Boolean(), nullable=False),
        sa.PrimaryKeyConstraint("room_id", "user_id", name="pk_member"),
        _refers("member", "room_id", "room"),
        _refers("member", "user_id", "user"),
        sqlite_with_rowid=False,
    )
    op.create_index("ix_member_user_room", "member", ["user_id", "room_id"])
    op.create_table(
        "ban",
        _key("room_id"),
        _key("user_id"),
        _number("created_at", nullable=False),
        _number("expires_at"),
        sa.PrimaryKeyConstraint("room_id", "user_id", name="pk_ban"),
        _refers("ban", "room_id", "room"),
        _refers("ban", "user_id", "user"),
        sqlite_with_rowid=False,
    )
    op.create_table(
        "mute",
        _key("room_id"),
        _key("user_id"),
        _number("expires_at", nullable=False),
        sa.PrimaryKeyConstraint("room_id", "user_id", name="pk_mute"),
        _refers("mute", "room_id", "room"),
        _refers("mute", "user_id", "user"),
        sqlite_with_rowid=False,
    )
    op.create_table(
        "invitation_link",
        _text("code", nullable=False),
        _key("room_id"),
        _key("user_id"),
        _number("created_at", nullable=False),
        _number("expires_at"),
        _number("uses_left"),
        sa.PrimaryKeyConstraint("code", name="pk_invitation_link"),
        _refers("invitation_link", "room_id", "room"),
        _refers("invitation_link", "user_id", "user"),
    )
    op.create_index("ix_invitation_link_room_id", "invitation_link", ["room_id"])
    op.create_table(
        "entry",
        _key("room_id"),
        _number("seq", nullable=False),
        _text("kind", nullable=False),
        _text("message_id"),
        _key("sender_id"),
        _text("client_id"),
        sa.Column("content", sa.Text()),
        _text("reply_to"),
        sa.Column("body", sa.Text()),
        _number("messages", nullable=False),
        _number("created_at", nullable=False),
        _number("edited_at"),
        sa.Column("deleted", sa.Boolean(), nullable=False),
        _number("target_seq"),
        sa.Column("reactions", sa.Text()),
        sa.PrimaryKeyConstraint("room_id", "seq", name="pk_entry"),
        _refers("entry", "room_id", "room"),
        sa.UniqueConstraint("message_id", name="uq_entry_message_id"),
        _refers("entry", "sender_id", "user"),
        sqlite_with_rowid=False,
    )
    op.create_index(
        "uq_entry_client_id",
        "entry",
        ["room_id", "sender_id", "client_id"],
        unique=True,
        sqlite_where=sa.text("client_id IS NOT NULL"),
        postgresql_where=sa.text("client_id IS NOT NULL"),
    )
    op.create_table(
        "cursor",
        _key("device_id"),
        _key("room_id"),
        _number("seq", nullable=False),
        sa.PrimaryKeyConstraint("device_id", "room_id", name="pk_cursor"),
        _refers("cursor", "device_id", "device"),
        _refers("cursor", "room_id", "room"),
        sqlite_with_rowid=False,
    )
    op.create_index("ix_cursor_room", "cursor", ["room_id"])
    op.create_table(
        "read_marker",
        _key("room_id"),
        _key("user_id"),
        _number("seq", nullable=False),
        _number("messages", nullable=False),
        _number("updated_at", nullable=False),
        sa.PrimaryKeyConstraint("room_id", "user_id", name="pk_read_marker"),
        _refers("read_marker", "room_id", "room"),
        _refers("read_marker", "user_id", "user"),
        sqlite_with_rowid=False,
    )
    op.create_table(
        "echo_entry",
        _key("id"),
        _text("entry_id", nullable=False),
        _key("user_id"),
        _text("direction", nullable=False),
        sa.Column("content", sa.Text(), nullable=False),
        _number("created_at", nullable=False),
        sa.PrimaryKeyConstraint("id", name="pk_echo_entry"),
        sa.UniqueConstraint("entry_id", name="uq_echo_entry_entry_id"),
        _refers("echo_entry", "user_id", "user"),
    )
    op.create_index("ix_echo_entry_user", "echo_entry", ["user_id", "id"])
    op.create_table(
        "consumer_cursor",
        _key("room_id"),
        _text("consumer", nullable=False),
        _number("seq", nullable=False),
        sa.PrimaryKeyConstraint("room_id", "consumer", name="pk_consumer_cursor"),
        _refers("consumer_cursor", "room_id", "room"),
        sqlite_with_rowid=False,
    )
    op.create_table(
        "instance",
        _text("id", nullable=False),
        _number("epoch", nullable=False),
        _text("key_fingerprint"),
        _number("public_since"),
        sa.PrimaryKeyConstraint("id", name="pk_instance"),
    )
    op.create_table(
        "witness",
        _text("node", nullable=False),
        _text("mark", nullable=False),
        _number("marked_at", nullable=False),
        sa.PrimaryKeyConstraint("node", name="pk_witness"),
    )
    op.create_table(
        "epoch_head",
        _key("room_id"),
        _number("epoch", nullable=False),
        _number("last_seq", nullable=False),
        sa.PrimaryKeyConstraint("room_id", "epoch", name="pk_epoch_head"),
        _refers("epoch_head", "room_id", "room"),
        sqlite_with_rowid=False,
    )
    op.create_table(
        "feed",
        _key("id"),
        _number("xid", nullable=False),
        _text("node", nullable=False),
        _number("at", nullable=False),
        sa.Column("body", sa.Text(), nullable=False),
        sa.PrimaryKeyConstraint("id", name="pk_feed"),
    )
    op.create_index("ix_feed_xid", "feed", ["xid"])
    op.create_table(
        "node",
        _text("id", nullable=False),
        _text("name", nullable=False),
        _text("version", nullable=False),
        _number("started_at", nullable=False),
        _number("lease_until", nullable=False),
        sa.Column("leaving", sa.Boolean(), nullable=False),
        _text("url"),
        sa.PrimaryKeyConstraint("id", name="pk_node"),
    )
    op.create_table(
        "online",
        _text("node", nullable=False),
        _key("user_id"),
        sa.PrimaryKeyConstraint("node", "user_id", name="pk_online"),
        sqlite_with_rowid=False,
    )
    op.create_table(
        "place",
        _key("user_id"),
        _key("room_id"),
        sa.Column("brought_in", sa.Boolean(), nullable=False),
        sa.PrimaryKeyConstraint("user_id", name="pk_place"),
        _refers("place", "user_id", "user"),
        _refers("place", "room_id", "room"),
    )
    op.create_index("ix_place_room_id", "place", ["room_id"])
    op.create_table(
        "login_attempt",
        _text("key", nullable=False),
        _number("began_at", nullable=False),
        _number("count", nullable=False),
        sa.PrimaryKeyConstraint("key", "began_at", name="pk_login_attempt"),
        sqlite_with_rowid=False,
    )
    op.create_table(
        "search_document",
        _key("id"),
        _key("room_id"),
        _number("seq", nullable=False),
        sa.PrimaryKeyConstraint("id", name="pk_search_document"),
        _refers("search_document", "room_id", "room"),
    )
    op.create_index("uq_search_document_room_seq", "search_document", ["room_id", "seq"], unique=True)
    if op.get_bind().dialect.name == "sqlite":
        op.execute("CREATE VIRTUAL TABLE search_words USING fts5(words, tokenize='ascii', columnsize=0)")
        op.execute("INSERT INTO search_words (search_words, rank) VALUES ('automerge', 0)")
        op.execute("CREATE TABLE search_removed (id INTEGER PRIMARY KEY)")
    else:
        op.execute(
            "CREATE TABLE search_words (id BIGINT CONSTRAINT pk_search_words PRIMARY KEY, words TSVECTOR NOT NULL)"
        )
        op.execute(
            "CREATE INDEX ix_search_words_words ON search_words USING gin (words) WITH (gin_pending_list_limit = 256)"
        )


def _key(name: str) -> sa.Column[Any]:
    """SQLite numbers rows by itself only where the type is exactly INTEGER."""
    return sa.Column(name, sa.BigInteger().with_variant(sa.Integer(), "sqlite"), nullable=False)


def _number(name: str, *, nullable: bool = True) -> sa.Column[Any]:
    return sa.Column(name, sa.BigInteger(), nullable=nullable)


def _counter(name: str) -> sa.Column[Any]:
    return sa.Column(name, sa.BigInteger(), nullable=False, server_default="0")


def _text(name: str, *, nullable: bool = True) -> sa.Column[Any]:
    return sa.Column(name, sa.String(), nullable=nullable)


def _refers(table: str, column: str, to: str) -> sa.ForeignKeyConstraint:
    return sa.ForeignKeyConstraint([column], [f"{to}.id"], name=f"fk_{table}_{column}_{to}")
