"""The command `tune`: one at a time, only where the memory holds both, and an answer that is remembered."""

from __future__ import annotations

import json
import queue
import threading
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from agent.clock import Clock, SystemClock
from agent.core.commands import REPLY_BYTES_KEPT_MAX, Address, CommandError, Request
from agent.core.tuning import Candidate, Figures, Target
from agent.engine.tuned import Way
from agent.errors import ConfigError
from agent.provision import Provision
from agent.settings import Settings
from agent.tuning import Found, Row, Search, Tell
from agent.tuning_command import ROWS_MAX, TuneArguments, TuneCommand, answer_of
from tests.paths import MODELS
from tests.unit.test_provision import settings, surveyed

WAY = Way(variant="full", providers=["cpu"], threads=1, spins=False, has_arena=True)


def found_of(rows: int, refusal: str = "") -> Found:
    """Return a result of so many candidates, the first of which is taken."""
    figures = [Figures(30, 40, 30 + number, 29, 21) for number in range(rows)]
    candidates = [
        Row(Candidate("full", threads=n + 1), figures[n], refusal if n else "", n == 0) for n in range(rows)
    ]
    return Found(Path("x"), Target(5, 250), tuple(candidates), WAY, ("it is best",), (), {}, Path("tuned.json"))


class Asked:
    """See `core.commands.Pending`."""

    def __init__(self) -> None:
        self.answers: queue.SimpleQueue[Any] = queue.SimpleQueue()

    @property
    def request(self) -> Request:
        return Request("tune", Address("desk", "1"), {})

    def done(self, figures: Mapping[str, Any], *, then: Callable[[], None] | None = None) -> None:
        self.answers.put(dict(figures))

    def failed(self, error: CommandError) -> None:
        self.answers.put(error.code)


class Bench:
    """A command whose search ends when the test says how."""

    def __init__(self, given: Settings) -> None:
        self.settings = given
        self.provision = surveyed(given)
        self.searches: queue.SimpleQueue[Search] = queue.SimpleQueue()
        self.outcome: Found | Exception = found_of(1)
        self.go_on = threading.Event()
        self.command = TuneCommand(SystemClock(), self._search)

    def ask(self, **arguments: Any) -> Asked:
        asked = Asked()
        self.command.begin(asked, TuneArguments(**arguments), self.settings, self.provision)
        return asked

    def _search(self, search: Search, _: Clock, tell: Tell) -> Found:
        self.searches.put(search)
        assert self.go_on.wait(30)
        tell("load", 0, 1)
        if isinstance(self.outcome, Exception):
            raise self.outcome
        return self.outcome


def test_one_search_runs_at_a_time_within_what_is_left_of_the_memory() -> None:
    """At low priority, for the only model, with what its streams ask."""
    bench = Bench(settings(model=MODELS / "tiny"))
    first = bench.ask(fps=3)
    search = bench.searches.get(timeout=30)
    assert (search.model, search.target, search.nice, search.measure_s) == ("seen", Target(3, 250), 19, 60)
    assert search.limit_bytes is not None
    assert 0 < search.limit_bytes < bench.provision.spare_bytes
    with pytest.raises(CommandError, match="another search runs"):
        bench.ask()
    bench.go_on.set()
    answer = first.answers.get(timeout=30)
    assert (answer["taken"], answer["is_kept"], answer["candidates_count"]) == ("full, 1 thread", True, 1)
    assert answer["candidates"] == [{"way": "full, 1 thread", "p95_ms": 40, "cpu_ms": 30}]


@pytest.mark.parametrize(
    ("outcome", "code"),
    [
        (ConfigError("it crashed"), "not_measured"),
        (replace(found_of(1), kept=None, fault="tuned.json: No space left on device: nothing was kept"), "disk"),
        (OSError(28, "No space left on device", "tuned.json"), "disk"),
        (RuntimeError("a bug"), "failed"),
    ],
)
def test_a_search_that_fails_is_answered_and_leaves_room_for_the_next(outcome: Found | Exception, code: str) -> None:
    """Whatever it was."""
    bench = Bench(settings(model=MODELS / "tiny"))
    bench.outcome = outcome
    bench.go_on.set()
    for _ in range(2):
        assert bench.ask().answers.get(timeout=30) == code
        for thread in threading.enumerate():
            if thread.name == "tune":
                thread.join(30)  # It answers, then makes room.


def test_a_search_that_does_not_fit_beside_the_models_is_refused_with_the_figures() -> None:
    """Nothing is begun."""
    given = settings(model=MODELS / "tiny", limits={"memory_mb": 64})
    bench = Bench(given)
    with pytest.raises(CommandError, match=r"a search takes \d+ MiB beside .* are left of 64 MiB \(limits") as caught:
        bench.ask()
    assert caught.value.code == "memory"
    assert bench.searches.empty()


def test_a_model_that_does_not_serve_is_refused() -> None:
    """With those that do; of several one must be named."""
    bench = Bench(settings(model=MODELS / "tiny"))
    with pytest.raises(CommandError, match="'other' is no model that serves: name one of seen") as caught:
        bench.ask(model="other")
    assert caught.value.code == "no_model"
    models = [{"name": name, "path": MODELS / "tiny"} for name in ("a", "b")]
    streams = [{"name": name, "source": "synthetic:", "model": name} for name in ("a", "b")]
    two = Settings.model_validate({"models": models, "streams": streams})
    with pytest.raises(CommandError, match="name one of a, b"):
        TuneCommand(SystemClock()).begin(Asked(), TuneArguments(), two, surveyed(two))
    assert Provision(two).served() == []


@pytest.mark.parametrize(("rows", "refusal"), [(1, ""), (48, ""), (48, "x" * 300)])
def test_an_answer_is_small_enough_to_be_remembered(rows: int, refusal: str) -> None:
    """The one that is taken stands first, and the rest give way."""
    answer = answer_of("seen", found_of(rows, refusal))
    assert len(json.dumps({"state": "ok", **answer})) <= REPLY_BYTES_KEPT_MAX
    assert answer["candidates"][0]["way"] == "full, 1 thread"
    assert answer["candidates_count"] == rows
    assert 1 <= len(answer["candidates"]) <= ROWS_MAX
