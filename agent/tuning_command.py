"""The command `tune`: a search beside the frames that are served, one at a time, where the memory holds both."""

from __future__ import annotations

import json
import logging
import threading
from collections.abc import Callable, Mapping
from typing import Any

from pydantic import Field

from agent.clock import Clock
from agent.core.commands import REPLY_BYTES_KEPT_MAX, CommandError, Pending
from agent.engine.memory import MIB
from agent.errors import ConfigError
from agent.provision import Provision
from agent.settings import Settings
from agent.settings.fields import Section
from agent.tuning import LOAD_S, Found, Search, Tell, target_of, tune

log = logging.getLogger(__name__)

SECONDS_MAX = 120.0
WAIT_S = SECONDS_MAX + LOAD_S + 10.0
"""Of the answer: the child has ended by then."""
NICE = 19
"""The live streams go first on a busy device."""
CHILDREN_BYTES = 128 * MIB
"""Of the search and of the process that tries a network for it: 123 MiB (PSS), the default model included."""
ROWS_MAX = 8
"""Candidates in an answer, the best first: with these it stays below the 2 kB that are remembered."""
TEXT_CHARS_MAX = 200

Tune = Callable[[Search, Clock, Tell], Found]


class TuneArguments(Section):
    """Arguments of `tune`."""

    model: str | None = Field(default=None, max_length=64)
    fps: float | None = Field(default=None, gt=0, le=1000)
    deadline_ms: float | None = Field(default=None, gt=0, le=600_000)
    seconds: float = Field(default=60.0, ge=1, le=SECONDS_MAX)


class TuneCommand:
    """Runs one search at a time in a thread of its own, which lasts as long as that.

    Args:
        clock: the agent's.
        search: another one in tests.
    """

    def __init__(self, clock: Clock, search: Tune = tune) -> None:
        self._clock = clock
        self._search = search
        self._is_busy = threading.Lock()

    def begin(self, pending: Pending, asked: TuneArguments, settings: Settings, provision: Provision) -> None:
        """Begin a search; it answers when it is done. The control thread.

        Args:
            pending: gets the answer.
            asked: what.
            settings: in force, with the folders that serve.
            provision: of the models that serve.

        Raises:
            CommandError: no such model, another search runs, or the memory does not hold both.
        """
        names = provision.served()
        name = asked.model or (names[0] if len(names) == 1 else None)
        if name not in names:
            known = ", ".join(names) or "none"
            raise CommandError("no_model", f"{asked.model!r} is no model that serves: name one of {known}"[:500])
        needed, spare = CHILDREN_BYTES + provision.peak_bytes(name), provision.spare_bytes
        if needed > spare:
            raise CommandError(
                "memory",
                f"a search takes {needed >> 20} MiB beside the models in service, {spare >> 20} MiB are left of "
                f"{provision.limit}: use edgebeat model tune while the agent is stopped, or raise the limit",
            )
        if not self._is_busy.acquire(blocking=False):
            raise CommandError("busy", "another search runs: ask again when it has ended")
        target = target_of(settings, name, asked.fps, asked.deadline_ms)
        search = Search(
            settings,
            name,
            target,
            measure_s=asked.seconds,
            nice=NICE,
            limit_bytes=spare - CHILDREN_BYTES // 2,
            cpus=provision.cores.all_of_them(),
        )
        threading.Thread(target=self._run, args=(pending, search), name="tune", daemon=True).start()

    def _run(self, pending: Pending, search: Search) -> None:
        try:
            found = self._search(search, self._clock, lambda *_: None)
            if found.fault is None:
                pending.done(answer_of(search.model, found))
            else:
                pending.failed(CommandError("disk", found.fault))
        except ConfigError as error:
            pending.failed(CommandError("not_measured", "; ".join(error.problems)[:1000]))
        except OSError as error:
            pending.failed(CommandError("disk", f"{error.filename or 'tuned.json'}: {error.strerror}"))
        except Exception:
            log.exception("tune: ended by an unexpected error")
            pending.failed(CommandError("failed", "the agent has a bug here; its log tells more"))
        finally:
            self._is_busy.release()


def answer_of(model: str, found: Found) -> dict[str, Any]:
    """Return what was found for an answer: small enough to be remembered, so that the same request gets it again."""
    ranked = sorted(found.rows, key=lambda row: (not row.is_taken, bool(row.refusal), _cpu_ms_of(row.figures)))
    rows: list[Mapping[str, Any]] = [
        {
            "way": str(row.candidate),
            **({} if row.figures is None else {"p95_ms": row.figures.p95_ms, "cpu_ms": row.figures.cpu_ms}),
            **({"refusal": row.refusal[:TEXT_CHARS_MAX]} if row.refusal else {}),
        }
        for row in ranked[:ROWS_MAX]
    ]
    body = {
        "model": model,
        "target": {"fps": found.target.fps, "deadline_ms": found.target.deadline_ms},
        "taken": None if found.taken is None else str(found.taken.candidate),
        "why": found.why[-1][:TEXT_CHARS_MAX] if found.why else "",
        "is_kept": found.kept is not None,
        "candidates_count": len(found.rows),
        "candidates": rows,
    }
    while len(json.dumps(body)) > REPLY_BYTES_KEPT_MAX - 64 and rows:
        rows.pop()
    return body


def _cpu_ms_of(figures: Any) -> float:
    return float("inf") if figures is None else float(figures.cpu_ms)
