"""Validates the Kubernetes manifests strictly, against the schemas of one Kubernetes version.

Usage: python tools/manifests.py

Each kustomization is rendered with kubectl or kustomize. Where neither is installed, the files
are validated one by one as they stand, and it is said aloud that patches were not applied.
"""

from __future__ import annotations

import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import kubernetes_validate
import yaml

MANIFESTS = Path("deploy/k8s")
KUBERNETES = "1.32"
"""The oldest version whose API all of the manifests keep to (a `sleep` before a stop needs 1.30)."""


def kustomizations() -> list[Path]:
    """The folders that can be rendered: the base and each overlay."""
    return sorted(path.parent for path in MANIFESTS.rglob("kustomization.yaml"))


def renderer() -> list[str] | None:
    """The command that renders a folder; None if this machine has none."""
    if kubectl := shutil.which("kubectl"):
        return [kubectl, "kustomize"]
    if kustomize := shutil.which("kustomize"):
        return [kustomize, "build"]
    return None


def documents(text: str) -> Iterator[dict[str, Any]]:
    """The resources in a YAML text."""
    yield from (document for document in yaml.safe_load_all(text) if document)


def mistakes(where: str, resources: Iterator[dict[str, Any]]) -> list[str]:
    """One line for each resource that its schema refuses, unknown fields included."""
    lines = []
    for resource in resources:
        name = f"{where}: {resource['kind']} {resource['metadata']['name']}"
        try:
            kubernetes_validate.validate(resource, KUBERNETES, strict=True)
        except kubernetes_validate.ValidationError as error:
            lines.append(f"{name}: {'.'.join(map(str, error.path))}: {error.message}")
    return lines


def patches(folder: Path) -> set[Path]:
    """The files of a kustomization that are not resources of their own."""
    kustomization = yaml.safe_load((folder / "kustomization.yaml").read_text())
    return {folder / patch["path"] for patch in kustomization.get("patches", [])} | {folder / "kustomization.yaml"}


def main() -> int:
    lines: list[str] = []
    render = renderer()
    for folder in kustomizations():
        if render:
            rendered = subprocess.run([*render, str(folder)], capture_output=True, text=True)
            if rendered.returncode:
                lines.append(f"{folder}: {rendered.stderr.strip()}")
            lines += mistakes(str(folder), documents(rendered.stdout))
        else:
            for path in sorted(set(folder.glob("*.yaml")) - patches(folder)):
                lines += mistakes(str(path), documents(path.read_text()))
    if not render:
        print("SKIPPED: no kubectl and no kustomize here, so no overlay was rendered; installing kubectl brings it.")
    for line in lines:
        print(line)
    return 1 if lines else 0


if __name__ == "__main__":
    sys.exit(main())
