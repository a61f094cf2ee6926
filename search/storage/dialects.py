"""What SQLAlchemy leaves to the dialects of SQLite and PostgreSQL."""

from __future__ import annotations

from typing import Any

from sqlalchemy import Connection
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.orm import Session


def insert_of(transaction: Connection | Session, table: Any) -> Any:
    """An INSERT that has `on_conflict_do_update`, for the database of this transaction."""
    dialect = transaction.dialect if isinstance(transaction, Connection) else transaction.get_bind().dialect
    return (postgresql if dialect.name == "postgresql" else sqlite).insert(table)
