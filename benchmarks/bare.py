"""The peer: a bare Starlette app that does one durable commit a request, on SQLite or PostgreSQL.

python -m benchmarks.bare PORT URL
"""

from __future__ import annotations

import sys
from contextlib import asynccontextmanager
from typing import Any

import uvicorn
from sqlalchemy import text
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse
from starlette.routing import Route

from services import sql
from services.ids import random_id

INSERT = text("INSERT INTO accepted (request_id, prompt) VALUES (:request_id, :prompt)")


def app(url: str) -> Starlette:
    """An app with one route."""
    database = sql.connect(url)

    async def accept(request: Request) -> JSONResponse:
        body = await request.json()
        request_id = random_id("req_")
        values = {"request_id": request_id, "prompt": body["prompt"]}
        await database.write(lambda connection: connection.execute(INSERT, values).rowcount, fold=request_id)
        return JSONResponse({"requestId": request_id}, status_code=202)

    @asynccontextmanager
    async def lifespan(_: Starlette) -> Any:
        create = text("CREATE TABLE accepted (request_id TEXT PRIMARY KEY, prompt TEXT)")
        await database.write(lambda connection: connection.execute(create).close())
        yield
        await database.close()

    return Starlette(routes=[Route("/", accept, methods=["POST"])], lifespan=lifespan)


if __name__ == "__main__":
    uvicorn.run(app(sys.argv[2]), port=int(sys.argv[1]), loop="uvloop", http="httptools", log_level="error")
