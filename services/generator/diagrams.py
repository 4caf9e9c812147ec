"""Checks and draws Mermaid source with merman, off the event loop."""

from __future__ import annotations

import asyncio
import hashlib
import json
import logging
import re
from concurrent.futures import ThreadPoolExecutor
from types import ModuleType
from typing import Any

from services.generator.attempt import Drawing

DRAW_TIMEOUT_MS = 5_000
THREADS = 2
"""A drawing takes 2 to 40 ms: two threads draw what 64 streams bring."""
LONGEST_ERROR = 500
OPTIONS = {
    "version": 2,
    # Labels as SVG text: foreignObject is missing in Inkscape and in every converter to PNG. The pipeline turns the
    # labels that mindmap, journey and block keep all the same into text too, and drops scripts, links and handlers.
    "site_config": {"htmlLabels": False, "flowchart": {"htmlLabels": False}, "securityLevel": "strict"},
    "svg": {"pipeline": "resvg-safe"},
}
log = logging.getLogger(__name__)

_TAG = re.compile(r"<[A-Za-z](?:[^<>\"']|\"[^\"]*\"|'[^']*')*>")
_ATTRIBUTE = re.compile(r"\s([\w:.-]+)\s*=\s*(\"[^\"]*\"|'[^']*')")
_FORBIDDEN = re.compile(r"<(?:\w+:)?(?:script|foreignObject|iframe|object|embed|audio|video)\b", re.IGNORECASE)
_OUTSIDE_URL = re.compile(r"url\(\s*(?!['\"]?#|&quot;#)[^)]*\)", re.IGNORECASE)
_IMPORT = re.compile(r"@import[^;<]*;?", re.IGNORECASE)


class Board:
    """Checks and draws; without merman (no wheel for this machine) it lets everything pass and draws nothing."""

    def __init__(self) -> None:
        self._threads = ThreadPoolExecutor(THREADS, thread_name_prefix="draw")
        self._merman = _merman()
        self._engine: Any = self._merman and self._merman.MermanEngine(json.dumps(OPTIONS), None)

    async def draw(self, source: str) -> Drawing:
        """The picture, or what is wrong with the source."""
        if self._merman is None:
            return Drawing()
        return await asyncio.get_running_loop().run_in_executor(self._threads, self._draw, source)

    def close(self) -> None:
        """Waits for what is being drawn, at most the time one drawing may take."""
        self._threads.shutdown(cancel_futures=True)

    def _draw(self, source: str) -> Drawing:
        assert self._merman is not None
        try:
            checked = self._engine.validate(source, None)
            if not checked.valid:
                return Drawing(problem=str(checked.error)[:LONGEST_ERROR])
            return Drawing(svg=safe_svg(self._render(source)))
        except self._merman.MermanError as error:
            text = str(getattr(error, "message", "it cannot be drawn"))
            return Drawing(problem=f"It parses, but cannot be drawn: {text[:LONGEST_ERROR]}", parses=True)

    def _render(self, source: str) -> str:
        # Ids of its own let several pictures stand in one page without sharing each other's styles.
        picture = f"d{hashlib.sha256(source.encode('utf-8', 'replace')).hexdigest()[:12]}"
        request = self._merman.MermanOperationRequestV4(  # type: ignore[union-attr]
            operation_id="svg",
            source=source,
            uri=None,
            options_json=json.dumps({"svg": {"diagram_id": picture}}),
            control=self._merman.MermanOperationControl(timeout_ms=DRAW_TIMEOUT_MS),  # type: ignore[union-attr]
        )
        return bytes(self._engine.execute(request).data).decode()


def safe_svg(svg: str) -> str:
    """The picture without handlers and without references to anything outside it; empty if it holds active elements.

    merman removes these itself; this is the second lock, for a picture that strangers' words have shaped.
    """
    if _FORBIDDEN.search(svg):
        log.warning("a picture was withheld: it holds an active element")
        return ""
    without_handlers = _TAG.sub(lambda tag: _ATTRIBUTE.sub(_kept, tag[0]), svg)
    return _OUTSIDE_URL.sub("none", _IMPORT.sub("", without_handlers))


def _kept(attribute: re.Match[str]) -> str:
    name, value = attribute[1].lower(), attribute[2][1:-1].strip()
    outside = name.rpartition(":")[2] in ("href", "src") and not value.startswith("#")
    return "" if name.startswith("on") or outside else attribute[0]


def _merman() -> ModuleType | None:
    try:
        import merman
    except (ImportError, OSError):
        log.warning("merman is not installed for this machine: diagrams are neither checked nor drawn")
        return None
    return merman  # type: ignore[no-any-return]
