"""Refuses a change to the contracts that would break a client of the last release.

Usage: python tools/proto_compat.py check|release

`check` compares protos/ with protos/released.binpb, the descriptors of the last release;
`release` makes today's contracts the released ones. An old client breaks when something it
names is gone or means something else: a field by number, name, type or presence, an enum
value, a call, a message. Adding is always fine, save on a number that was reserved.
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import TypeVar

from google.protobuf.descriptor_pb2 import (
    DescriptorProto,
    EnumDescriptorProto,
    FieldDescriptorProto,
    FileDescriptorSet,
    MethodDescriptorProto,
    ServiceDescriptorProto,
)

T = TypeVar("T")

PROTOS = Path("protos")
RELEASED = PROTOS / "released.binpb"


def breaks(old: FileDescriptorSet, new: FileDescriptorSet) -> list[str]:
    """One sentence for each thing an old client relies on that is gone or different."""
    return [
        *_breaks_by_name("message", _messages(old), _messages(new), _message_breaks),
        *_breaks_by_name("enum", _enums(old), _enums(new), _enum_breaks),
        *_breaks_by_name("service", _services(old), _services(new), _service_breaks),
    ]


def _breaks_by_name(
    kind: str, old: Mapping[str, T], new: Mapping[str, T], compare: Callable[[str, T, T], Iterator[str]]
) -> Iterator[str]:
    for name, before in old.items():
        if name in new:
            yield from compare(name, before, new[name])
        else:
            yield f"{kind} {name} is gone"


def _message_breaks(name: str, old: DescriptorProto, new: DescriptorProto) -> Iterator[str]:
    now = {field.number: field for field in new.field}
    for before in old.field:
        if before.number not in now:
            yield f"{name}: field {before.name} = {before.number} is gone"
            continue
        after = now[before.number]
        for what, was, has in zip(("name", "type", "presence"), _field(old, before), _field(new, after), strict=True):
            if was != has:
                yield f"{name}: the {what} of field {before.name} = {before.number} was {was} and is {has}"
    reserved = [(r.start, r.end) for r in old.reserved_range]
    for field in new.field:
        if any(start <= field.number < end for start, end in reserved):
            yield f"{name}: field {field.name} = {field.number} takes a reserved number"


def _field(message: DescriptorProto, field: FieldDescriptorProto) -> tuple[str, str, str]:
    kind = field.type_name or FieldDescriptorProto.Type.Name(field.type)
    repeated = field.label == FieldDescriptorProto.LABEL_REPEATED
    if field.proto3_optional:
        presence = "optional"
    elif field.HasField("oneof_index"):
        presence = f"one of {message.oneof_decl[field.oneof_index].name}"
    else:
        presence = "repeated" if repeated else "plain"
    return field.name, kind, presence


def _enum_breaks(name: str, old: EnumDescriptorProto, new: EnumDescriptorProto) -> Iterator[str]:
    now = {value.number: value.name for value in new.value}
    for value in old.value:
        if value.number not in now:
            yield f"{name}: value {value.name} = {value.number} is gone"
        elif now[value.number] != value.name:
            yield f"{name}: value {value.name} = {value.number} is now {now[value.number]}"


def _service_breaks(name: str, old: ServiceDescriptorProto, new: ServiceDescriptorProto) -> Iterator[str]:
    now = {method.name: method for method in new.method}
    for before in old.method:
        if before.name not in now:
            yield f"{name}: call {before.name} is gone"
        elif _call(before) != _call(now[before.name]):
            yield f"{name}: call {before.name} was {_call(before)} and is {_call(now[before.name])}"


def _call(method: MethodDescriptorProto) -> str:
    sent = "stream of " * method.client_streaming + method.input_type
    received = "stream of " * method.server_streaming + method.output_type
    return f"{sent} -> {received}"


def _messages(files: FileDescriptorSet) -> dict[str, DescriptorProto]:
    found: dict[str, DescriptorProto] = {}

    def walk(prefix: str, message: DescriptorProto) -> None:
        name = f"{prefix}.{message.name}"
        found[name] = message
        for inner in message.nested_type:
            walk(name, inner)

    for file in files.file:
        for message in file.message_type:
            walk(file.package, message)
    return found


def _enums(files: FileDescriptorSet) -> dict[str, EnumDescriptorProto]:
    found = {f"{file.package}.{enum.name}": enum for file in files.file for enum in file.enum_type}
    for name, message in _messages(files).items():
        found |= {f"{name}.{enum.name}": enum for enum in message.enum_type}
    return found


def _services(files: FileDescriptorSet) -> dict[str, ServiceDescriptorProto]:
    return {f"{file.package}.{service.name}": service for file in files.file for service in file.service}


def describe(folder: Path) -> FileDescriptorSet:
    """The descriptors of every contract under `folder`, without comments."""
    contracts = [str(path) for path in sorted(folder.rglob("*.proto"))]
    with tempfile.TemporaryDirectory() as scratch:
        out = Path(scratch) / "descriptors"
        command = [sys.executable, "-m", "grpc_tools.protoc", f"-I{folder}", f"--descriptor_set_out={out}", *contracts]
        subprocess.run(command, check=True)
        return FileDescriptorSet.FromString(out.read_bytes())


def main(action: str) -> int:
    current = describe(PROTOS)
    if action == "release":
        RELEASED.write_bytes(current.SerializeToString(deterministic=True))
        return 0
    sentences = breaks(FileDescriptorSet.FromString(RELEASED.read_bytes()), current)
    for sentence in sentences:
        print(sentence)
    if sentences:
        print("An older client would break: add a new field or call instead, and leave the old one.")
    return 1 if sentences else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))
