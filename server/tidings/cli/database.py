"""The helpers of commands on the database: opening it, and printing a table."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence

from tidings.auth.sessions import Auth
from tidings.fanout.publisher import Publisher
from tidings.settings import MIGRATIONS_NEEDED, Settings, SettingsError
from tidings_db.engine import Database
from tidings_db.schema import migrate, pending


def with_database(settings: Settings, work: Callable[[Database, Auth], Awaitable[None]]) -> int:
    """Run a command on the database, which a running server may be using."""

    async def run() -> None:
        database = Database(settings.database, settings.durability, checkpoints=False)
        auth = Auth(database, Publisher(), token_minutes=settings.access_token_expire_minutes)
        await database.start()
        try:
            auth.sign_with(settings.signing_keys())
            await work(database, auth)
        finally:
            auth.stop()
            await database.stop()

    if settings.database.startswith("sqlite"):
        settings.prepare_data_dir()
        if pending(settings.database):
            migrate(settings.database)
    elif pending(settings.database):
        raise SettingsError(MIGRATIONS_NEEDED)
    asyncio.run(run())
    return 0


def check_data_dir(settings: Settings) -> None:
    """A command must not create a database where no server looks for it."""
    if not settings.model_fields_set & {"data_dir", "database_url"} and not settings.data_dir.exists():
        raise SettingsError(
            f"there is no server's data in {settings.data_dir.absolute()}: set TIDINGS_DATA_DIR to where it is"
        )


def print_table(rows: Sequence[Sequence[str]]) -> None:
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    for row in rows:
        print("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip())
