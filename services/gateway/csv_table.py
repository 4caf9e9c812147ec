"""Tables as CSV that a spreadsheet opens and never runs."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable, Mapping, Sequence

from starlette.responses import Response

Cell = str | int | bool
_FORMULA = ("=", "+", "-", "@", "\t", "\r", "\uff1d", "\uff0b", "\uff0d", "\uff20")
"""What makes a spreadsheet take a text for a formula (OWASP's list of CSV injection); the last are full width."""


def csv_response(
    heads: Sequence[str], rows: Iterable[Sequence[Cell]], *, name: str = "headgate", headers: Mapping[str, str] = {}
) -> Response:
    """RFC 4180, to be saved as `name`.csv; no cache keeps it."""
    file = io.StringIO()
    writer = csv.writer(file)
    writer.writerow(heads)
    writer.writerows([_safe(cell) for cell in row] for row in rows)
    fixed = {"cache-control": "no-store", "content-disposition": f'attachment; filename="{name}.csv"'}
    return Response(file.getvalue(), headers={**fixed, **headers}, media_type="text/csv; header=present")


def _safe(cell: Cell) -> str | int:
    if isinstance(cell, bool):
        return "true" if cell else "false"
    if isinstance(cell, str) and cell.lstrip(" ").startswith(_FORMULA):
        return "'" + cell
    return cell
