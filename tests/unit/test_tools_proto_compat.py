"""Each way to break an older client is refused, and adding is not."""

from __future__ import annotations

from pathlib import Path

import pytest
from google.protobuf.descriptor_pb2 import FileDescriptorSet

from tools.proto_compat import breaks, describe

CONTRACT = """
syntax = "proto3";
package shop.v1;
service Shop {
  rpc Buy(Order) returns (Receipt);
  rpc Watch(Order) returns (stream Receipt);
}
message Order {
  reserved 9;
  string item = 1;
  int64 amount = 2;
  optional string note = 3;
  repeated string tags = 4;
  oneof payer { string card = 5; string account = 6; }
  message Line { string text = 1; }
  Line line = 7;
}
message Receipt { Colour colour = 1; }
enum Colour { COLOUR_UNSPECIFIED = 0; COLOUR_RED = 1; }
"""


def described(folder: Path, text: str) -> FileDescriptorSet:
    folder.mkdir()
    (folder / "shop.proto").write_text(text)
    return describe(folder)


def found(tmp_path: Path, old: str, new: str) -> list[str]:
    changed = CONTRACT.replace(old, new)
    assert changed != CONTRACT
    return breaks(described(tmp_path / "old", CONTRACT), described(tmp_path / "new", changed))


def test_the_same_contract_breaks_nothing(tmp_path: Path) -> None:
    same = described(tmp_path / "old", CONTRACT)
    assert breaks(same, same) == []


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("string item = 1;", "string item = 1; string colour = 8;"),
        ("COLOUR_RED = 1;", "COLOUR_RED = 1; COLOUR_BLUE = 2;"),
        ("rpc Buy(", "rpc Sell(Order) returns (Receipt);\n rpc Buy("),
        ("message Receipt {", "message Refund {}\nmessage Receipt {"),
        ("string account = 6;", "string account = 6; string cash = 10;"),
    ],
)
def test_adding_breaks_nothing(tmp_path: Path, old: str, new: str) -> None:
    assert found(tmp_path, old, new) == []


@pytest.mark.parametrize(
    ("old", "new", "sentence"),
    [
        ("string item = 1;", "", "shop.v1.Order: field item = 1 is gone"),
        ("string item = 1;", "string item = 11;", "shop.v1.Order: field item = 1 is gone"),
        ("string item = 1;", "string thing = 1;", "the name of field item = 1 was item and is thing"),
        ("int64 amount", "int32 amount", "the type of field amount = 2 was TYPE_INT64 and is TYPE_INT32"),
        ("optional string note", "string note", "the presence of field note = 3 was optional and is plain"),
        ("repeated string tags", "string tags", "the presence of field tags = 4 was repeated and is plain"),
        ("string account = 6; }", "} string account = 6;", "the presence of field account = 6 was one of payer"),
        ("Line line = 7", "Receipt line = 7", "the type of field line = 7 was .shop.v1.Order.Line"),
        ("reserved 9;", "string late = 9;", "shop.v1.Order: field late = 9 takes a reserved number"),
        ("COLOUR_RED = 1;", "", "shop.v1.Colour: value COLOUR_RED = 1 is gone"),
        ("COLOUR_RED = 1;", "COLOUR_PINK = 1;", "value COLOUR_RED = 1 is now COLOUR_PINK"),
        ("rpc Buy(Order) returns (Receipt);", "", "shop.v1.Shop: call Buy is gone"),
        ("rpc Buy(Order)", "rpc Buy(Receipt)", "call Buy was .shop.v1.Order -> .shop.v1.Receipt and is"),
        (
            "returns (stream Receipt)",
            "returns (Receipt)",
            "call Watch was .shop.v1.Order -> stream of .shop.v1.Receipt",
        ),
        ("service Shop {", "service Store {", "service shop.v1.Shop is gone"),
        ("package shop.v1;", "package shop.v2;", "message shop.v1.Order is gone"),
    ],
)
def test_what_an_old_client_relies_on_stays(tmp_path: Path, old: str, new: str, sentence: str) -> None:
    sentences = found(tmp_path, old, new)
    assert any(sentence in line for line in sentences), sentences


def test_a_removed_enum_or_inner_message_is_seen(tmp_path: Path) -> None:
    without = CONTRACT.replace("message Line { string text = 1; }", "").replace("Line line = 7;", "")
    sentences = breaks(described(tmp_path / "old", CONTRACT), described(tmp_path / "new", without))
    assert "message shop.v1.Order.Line is gone" in sentences
