"""The planner's pure parts: what it reads, makes up and adds up."""

from __future__ import annotations

from pathlib import Path

import pytest

from services.money import to_the_cent
from services.scheduler.planner import __main__ as command
from services.scheduler.planner.drive import DAY, OUTSTANDING, Answer, Arrival, Journey
from services.scheduler.planner.figures import Promise, figures, percentile, smallest
from services.scheduler.planner.site import Site, read_site
from services.scheduler.planner.synthetic import CURVES, Mix, make
from services.scheduler.planner.tables import seconds
from services.scheduler.planner.traffic import HEADER, Traffic, TrafficError, read_traffic
from services.settings import config_dir

TIERS = ("free", "pro")
GOOD = "2026-11-24T09:30:00.250Z,u1,pro,mermaid,500,1500,20000"
HOUR_MS = 3_600_000


@pytest.fixture(scope="module")
def site() -> Site:
    return read_site(config_dir(), ["5x", "20x"], None)


def file_of(folder: Path, *lines: str) -> Path:
    file = folder / "traffic.csv"
    file.write_text("\n".join([",".join(HEADER), *lines]) + "\n")
    return file


def test_a_recording_is_read_in_order_and_from_its_first_midnight(tmp_path: Path) -> None:
    late = "2026-11-25T01:00:00+02:00,u2,free,flowchart,100,200,3000"
    after = "2026-11-25T00:00:01,u1,free,mermaid,1,2,3"
    traffic = read_traffic(file_of(tmp_path, late, GOOD, after), TIERS)
    assert [(a.at_ms, a.user, a.tier, a.kind) for a in traffic.arrivals] == [
        (34_200_250, "u1", "pro", "mermaid"), (23 * HOUR_MS, "u2", "free", "flowchart"),
        (24 * HOUR_MS + 1_000, "u1", "free", "mermaid"),
    ]  # fmt: skip
    assert traffic.answer(traffic.arrivals[0]) == Answer(1_500, 20_000)
    assert (traffic.days, dict(traffic.users)) == (2, {"free": 2}), "u1 is counted once, in the tier held last"


@pytest.mark.parametrize(
    ("line", "said"),
    [
        (GOOD.replace("pro", "gold"), "traffic.csv line 3, tier: 'gold' is not one of free, pro"),
        (GOOD.replace("1500", "-1"), "line 3, output_tokens: must be a whole number from 0 to 1000000, not '-1'"),
        (GOOD.replace("500", "1.5", 1), "line 3, input_tokens"),
        (GOOD.replace("20000", "9000000"), "line 3, duration_ms"),
        (GOOD.replace("2026-11-24T09:30:00.250Z", "noon"), "line 3, time: 'noon' is no time"),
        (GOOD.replace("mermaid", "poem"), "line 3, kind"),
        (GOOD.replace("u1", "x" * 129), "line 3, user"),
        (GOOD + ",7", "line 3: it has 8 columns, not 7"),
        (GOOD.replace("2026-11", "2025-11"), "lie 366 days apart; at most 31"),
    ],
)
def test_a_wrong_line_is_named(tmp_path: Path, line: str, said: str) -> None:
    with pytest.raises(TrafficError, match=said.replace(".", r"\.").replace("'", ".")):
        read_traffic(file_of(tmp_path, GOOD, line), TIERS)


def test_a_wrong_file_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(TrafficError, match="there is no request in it"):
        read_traffic(file_of(tmp_path), TIERS)
    (tmp_path / "other.csv").write_text("when,who\n1,2\n")
    with pytest.raises(TrafficError, match=r"other\.csv line 1: the header must be time,user"):
        read_traffic(tmp_path / "other.csv", TIERS)
    with pytest.raises(TrafficError, match="cannot be read"):
        read_traffic(tmp_path / "missing.csv", TIERS)
    monkeypatch.setattr("services.scheduler.planner.traffic.MOST_REQUESTS", 1)
    with pytest.raises(TrafficError, match="line 3: at most 1 requests"):
        read_traffic(file_of(tmp_path, GOOD, GOOD), TIERS)


def test_made_up_traffic_is_as_much_as_was_asked_for_and_the_same_again() -> None:
    mix = Mix({"pro": 100, "free": 200}, {"pro": 20, "free": 0.5}, CURVES["office"], 500, 1_500, 2, 3)
    traffic = make(mix)
    assert make(mix).arrivals == traffic.arrivals
    pro = [a for a in traffic.arrivals if a.tier == "pro"]
    assert len(pro) == 4_000
    assert 150 < len(traffic.arrivals) - len(pro) < 250
    assert sum(a.input_tokens for a in pro) / 4_000 == pytest.approx(500, rel=0.05)
    assert sum(traffic.answer(a).output_tokens for a in pro) / 4_000 == pytest.approx(1_500, rel=0.05)
    noon, night = (sum(a.at_ms % (24 * HOUR_MS) // HOUR_MS == hour for a in pro) for hour in (10, 2))
    assert noon > 10 * night
    assert [a.at_ms for a in traffic.arrivals] == sorted(a.at_ms for a in traffic.arrivals)


def test_too_much_traffic_is_refused() -> None:
    with pytest.raises(TrafficError, match="that makes 600,000 requests"):
        make(Mix({"pro": 1_200}, {"pro": 500}, CURVES["flat"], 1, 1, 1, 1))


def test_a_run_adds_up_to_the_nano_dollar(site: Site) -> None:
    arrivals = [Arrival(n * HOUR_MS, "a", "pro", 1_000, answer=Answer(2_000, 60_000)) for n in (1, 1, 2)]
    traffic = Traffic(arrivals, {"pro": 3, "enterprise": 1}, 1)
    done = [
        Journey(f"r{n}", a, None, a.at_ms + 500 * n, a.at_ms + 70_000, 2_000, 60_000)
        for n, a in enumerate(arrivals[1:], 1)
    ]
    gone = Journey("r9", arrivals[0], ended_ms=arrivals[0].at_ms + HOUR_MS)
    promise = Promise.of("1s@p50:pro", site.tiers)
    found = figures(site, "5x", traffic, [gone, *done], {("pro", DAY): 4, ("pro", OUTSTANDING): 2}, promise)
    pro = found.tiers["pro"]
    assert (pro.sent, pro.over_daily_limit, pro.over_outstanding, pro.expired) == (9, 4, 2, 1)
    assert (pro.waits.median_ms, pro.waits.p90_ms) == (1_000, HOUR_MS)
    assert pro.cost_month_nano_usd == 30 * 2 * (1_000 * 2_000 + 2_000 * 10_000)
    assert pro.revenue_month_nano_usd == 3 * 79_000_000_000
    assert found.tiers["enterprise"].revenue_month_nano_usd is None
    assert found.margin_month_nano_usd == pro.revenue_month_nano_usd - pro.cost_month_nano_usd
    assert found.hours["pro"][1].longest_ms == HOUR_MS
    assert [found.served_an_hour[hour] for hour in (1, 2)] == [1, 1]
    assert found.use["requests"].peak == pytest.approx(1 / 60 / 25)
    assert found.use["tokens"].peak == pytest.approx(3_000 / 60 / 200_000)
    assert found.use["requests_day"].mean == pytest.approx(2 / 36_000)
    assert found.capacity_a_minute == pytest.approx(25)
    assert found.keeps is True
    assert figures(site, "5x", traffic, [gone, *done], {}, Promise.of("1s@p90", site.tiers)).keeps is False
    assert smallest([figures(site, "20x", traffic, done, {}, promise), found]) is found


@pytest.mark.parametrize("text", ["60", "60s", "60s@p00", "60s@p100", "60@p90", "60s@p90:gold", "s@p90"])
def test_a_wait_that_cannot_be_kept_is_refused(text: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(ValueError, match="is no wait to keep"):
        Promise.of(text, TIERS)
    assert command.main(["--users", "pro=1", "--keep-wait", text]) == 2
    assert "--keep-wait" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ([], "--traffic FILE.csv, or --users"),
        (["--users", "gold=1"], "tier 'gold'"),
        (["--users", "pro=1", "--requests-a-day", "gold=1"], "tier 'gold'"),
        (["--users", "pro=1", "--plans", "21x"], "'21x'"),
        (["--users", "pro=1", "--plans", "auto"], "'auto'"),
        (["--users", "pro=1", "--model", "gpt"], "'gpt'"),
        (["--users", "pro=0"], "that makes 0 requests"),
        (["--traffic", "nowhere.csv"], "nowhere.csv cannot be read"),
    ],
)
def test_what_cannot_be_planned_is_said(arguments: list[str], said: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert command.main(arguments) == 2
    told = capsys.readouterr().err
    assert told.startswith("headgate-plan: ")
    assert said in told


@pytest.mark.parametrize(
    "arguments",
    [
        ["--users", "pro"], ["--users", "pro=-1"], ["--users", "pro=nan"], ["--users", "pro=1", "--day-curve", "11-9"],
        ["--users", "pro=1", "--days", "32"], ["--users", "pro=1", "--max-wait", "0s"], ["--plans", ","],
    ],
)  # fmt: skip
def test_a_command_that_is_written_wrongly_is_refused(arguments: list[str]) -> None:
    with pytest.raises(SystemExit, match="2"):
        command.main(arguments)


def test_without_matplotlib_it_is_said_before_anything_runs(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    monkeypatch.setitem(__import__("sys").modules, "matplotlib", None)
    assert command.main(["--users", "pro=1", "--out", str(tmp_path / "out")]) == 2
    assert "pip install 'headgate[plan]'" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_figures_are_told_as_people_say_them() -> None:
    assert [seconds(ms) for ms in (0, 59_000, 90_000, 5_400_000)] == ["0.0 s", "59.0 s", "1.5 min", "1.5 h"]
    assert [to_the_cent(nano) for nano in (0, 5_000_000, 15_000_000, -1_234_567_891_000_000)] == [
        "$0.00", "$0.00", "$0.02", "-$1,234,567.89",
    ]  # fmt: skip
    assert [percentile(range(1, 11), part) for part in (0.5, 0.9, 0.99)] == [5, 9, 10]
