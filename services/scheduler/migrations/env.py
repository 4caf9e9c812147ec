from services.sql import run_migrations

run_migrations()
