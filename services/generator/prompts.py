"""The words that make a model answer with Mermaid of one kind. Templates are files beside this module."""

from __future__ import annotations

from pathlib import Path

from services.generator.source import KINDS

FOLDER = Path(__file__).parent / "prompts"


class Prompts:
    """The templates: a frame for all, and for each kind what its grammar wants."""

    def __init__(self, templates: dict[str, str]) -> None:
        """Templates by name: each of KINDS, "mermaid", "frame" and "repair"."""
        self._templates = templates

    @classmethod
    def load(cls, folder: Path = FOLDER) -> Prompts:
        """Reads the files; OSError if one is missing."""
        names = [*KINDS, "mermaid", "frame", "repair"]
        return cls({name: (folder / f"{name}.md").read_text("utf-8").strip() for name in names})

    def system(self, kind: str) -> str:
        """Who the model is and what it may answer. KeyError for an unknown kind."""
        return self._templates["frame"].replace("{kind}", kind).replace("{rules}", self._templates[kind])

    def ask(self, prompt: str) -> str:
        """What the user wrote, fenced so that it cannot end its own fence."""
        return f"<request>\n{_fenced(prompt, 'request')}\n</request>"

    def repair(self, kind: str, problem: str, *, cut: bool) -> str:
        """Asks for a corrected source."""
        why = "It was cut off because it was too long: make it clearly shorter.\n" if cut else ""
        template = self._templates["repair"].replace("{kind}", kind).replace("{why}", why)
        return template.replace("{problem}", _fenced(problem, "error"))


def _fenced(text: str, tag: str) -> str:
    return text.replace(f"</{tag}", f"< /{tag}")
