"""What a request has in common with its equals."""

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"


def upgrade() -> None:
    """Adds the key and its index; a release that knows neither goes on beside them."""
    op.add_column("scheduler_requests", sa.Column("cache_key", sa.String(64)))
    op.create_index(
        "scheduler_requests_same",
        "scheduler_requests",
        ["cache_key", "state", "ended_ms"],
        postgresql_where=sa.text("cache_key IS NOT NULL"),
        sqlite_where=sa.text("cache_key IS NOT NULL"),
    )
