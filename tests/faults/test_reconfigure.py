"""Other settings while frames are served: real sources, real models, one inbox."""

from __future__ import annotations

import shutil
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from agent.assembly import load_models, scheduler_policy, stream_policy, used_models
from agent.clock import SystemClock
from agent.core.message import Message
from agent.engine.budget import FRAME_BYTES
from agent.engine.memory import MIB
from agent.engine.providers import NAMES
from agent.errors import ConfigError, DoesNotFitError
from agent.interfaces import LoadedModel
from agent.loops.inbox import Inbox
from agent.marks import Marks
from agent.pipelines import Pipelines, runnable
from agent.provision import Provision
from agent.settings import Settings
from agent.sourcing import build_source
from tests.paths import CLIP, MODELS, SILERO_VAD, SPEECH

WAIT_S = 30.0


class Plant:
    """Pipelines over a real clip, with a list in the place of egress."""

    def __init__(self, folder: Path, settings: Settings) -> None:
        clock = SystemClock()
        self._changed = threading.Condition()
        self._messages: list[Message] = []
        self.events: list[tuple[str, Mapping[str, Any]]] = []
        marks = Marks(folder / "state", None, may_make=True)
        provision = Provision(settings)
        models, left_out = load_models(used_models(settings), provision, marks, clock, must_all_load=True)
        sources = {
            stream.name: build_source(stream, clock, models[stream.model].signal)
            for stream in settings.streams
            if stream.enabled
        }
        policies = {stream.name: stream_policy(stream) for stream in runnable(settings, models, sources)}
        self.inbox = Inbox(policies, clock, scheduler_policy(settings, provision))
        self.pipelines = Pipelines(
            settings,
            models,
            sources,
            left_out,
            provision=provision,
            marks=marks,
            inbox=self.inbox,
            show=lambda *_: None,
            emit=self._emit,
            report=lambda event, body: self.events.append((event, body)),
            wake=lambda: None,
            clock=clock,
        )

    def _emit(self, message: Message) -> None:
        with self._changed:
            self._messages.append(message)
            self._changed.notify_all()

    def next_result(self, stream: str, is_wanted: Callable[[Mapping[str, Any]], bool] = lambda body: True) -> Any:
        """Return the body of the next result of a stream that fits."""
        with self._changed:
            seen = len(self._messages)

            def found() -> list[Message]:
                return [m for m in self._messages[seen:] if m.stream == stream and is_wanted(m.body)]

            assert self._changed.wait_for(lambda: bool(found()), WAIT_S), f"no such result of {stream}"
            return found()[0].body

    def ledger(self, stream: str) -> dict[str, int]:
        """Return a stream's book."""
        ledger: dict[str, int] = self.inbox.snapshot()[stream]["ledger"]
        return ledger


def settings(
    *streams: Mapping[str, Any],
    threads: int = 1,
    models: Mapping[str, Path] | None = None,
    engine: Mapping[str, Any] | None = None,
) -> Settings:
    """Return settings; a stream without further keys reads the demo clip at its 10 fps, again and again."""
    paths = models or {"tiny": MODELS / "tiny"}
    return Settings.model_validate(
        {
            "limits": {"threads": threads},
            "engine": engine or {},
            "models": [{"name": name, "path": path} for name, path in paths.items()],
            "streams": [{"source": str(CLIP), "model": "tiny", "repeat": True, **stream} for stream in streams],
        }
    )


@contextmanager
def running(folder: Path, first: Settings) -> Iterator[Plant]:
    """Run pipelines; at the end every frame of every stream that ever was has its outcome."""
    plant = Plant(folder, first)
    plant.pipelines.start()
    try:
        yield plant
    finally:
        plant.pipelines.shut_down(inference_hangs=False)
    for stream, figures in plant.inbox.snapshot().items():
        ledger = figures["ledger"]
        assert ledger["captured"] == sum(ledger.values()) - ledger["captured"], stream
        assert ledger["in_flight"] == 0, stream
    assert set(plant.inbox.self_check().values()) == {0}
    assert plant.pipelines.crashed == []


DOOR, YARD = {"name": "door"}, {"name": "yard"}
BOTH = {"tiny": MODELS / "tiny", "other": MODELS / "letterbox"}


def test_another_deadline_holds_from_the_next_frame_on(tmp_path: Path) -> None:
    """The source is not touched, and no frame is lost."""
    with running(tmp_path, settings(DOOR)) as plant:
        assert plant.next_result("door")["deadline_ms"] == 250
        plant.pipelines.apply(settings({**DOOR, "deadline_ms": 600, "priority": 9}))
        plant.next_result("door", lambda body: body["deadline_ms"] == 600)
        figures = plant.inbox.snapshot()["door"]
        assert (figures["priority"], figures["ledger"]["shutdown"]) == (9, 0)


def test_another_source_for_one_stream(tmp_path: Path) -> None:
    """The other stream goes on; a frame that the old reader still holds does not come in."""
    still = shutil.copy(CLIP, tmp_path / "other.mp4")
    with running(tmp_path, settings(DOOR, YARD)) as plant:
        before = plant.next_result("yard")["frame"]
        plant.next_result("door")
        plant.pipelines.apply(settings({**DOOR, "source": str(still)}, YARD))
        plant.next_result("door")
        after = plant.next_result("yard")["frame"]
        assert after > before
        assert plant.ledger("yard")["shutdown"] == 0
        assert plant.inbox.snapshot()["door"]["is_open"]


def test_a_stream_that_is_off_keeps_its_model_and_comes_back(tmp_path: Path) -> None:
    """With its only stream off, the session waits instead of ending."""
    with running(tmp_path, settings(DOOR)) as plant:
        plant.next_result("door")
        plant.pipelines.apply(settings({**DOOR, "enabled": False}))
        figures = plant.inbox.snapshot()["door"]
        assert (figures["is_open"], figures["is_off"]) == (False, True)
        assert not plant.pipelines.has_ended
        plant.pipelines.apply(settings(DOOR))
        plant.next_result("door")


def test_streams_and_models_come_and_go(tmp_path: Path) -> None:
    """The book of a stream that is gone stays; its model is let go; nothing ends because of it."""
    with running(tmp_path, settings(DOOR)) as plant:
        plant.next_result("door")
        yard = {**YARD, "model": "other"}
        plant.pipelines.apply(settings(DOOR, yard, models=BOTH))
        assert plant.next_result("yard")["model"] == "other"
        plant.pipelines.apply(settings(yard, models=BOTH))
        assert list(plant.pipelines.snapshot()) == ["other"]
        captured = plant.ledger("door")["captured"]
        plant.next_result("yard")
        assert plant.ledger("door")["captured"] == captured > 0
        assert not plant.pipelines.has_ended
        plant.pipelines.apply(settings(DOOR, yard, models=BOTH))
        plant.next_result("door")
        assert plant.ledger("door")["captured"] > captured


@pytest.mark.parametrize(
    ("wrong", "text"),
    [
        (settings(DOOR, {**YARD, "source": "nothing.mp4"}), "'nothing.mp4' is no file"),
        (settings(DOOR, YARD, models={"tiny": MODELS / "nothing"}), "nothing"),
        (
            settings(DOOR, {"name": "yard", "model": "other", "source": "nothing.mp4"}, models=BOTH),
            "'nothing.mp4' is no file",
        ),
    ],
)
def test_what_cannot_be_used_changes_nothing(tmp_path: Path, wrong: Settings, text: str) -> None:
    """Not even the part that could be used."""
    with running(tmp_path, settings(DOOR)) as plant:
        plant.next_result("door")
        before = plant.pipelines.snapshot()["tiny"]["sha256"]
        with pytest.raises(ConfigError, match=text):
            plant.pipelines.apply(wrong)
        plant.next_result("door")
        assert list(plant.inbox.snapshot()) == ["door"]
        assert plant.pipelines.snapshot()["tiny"]["sha256"] == before


def test_a_model_is_swapped_between_two_frames(tmp_path: Path) -> None:
    """The new one serves the next frame, and no frame is lost for it."""
    other = Path(shutil.copytree(MODELS / "tiny", tmp_path / "tiny"))
    manifest = other / "model.toml"
    manifest.write_text('version = "next"\n' + manifest.read_text().replace("version =", "# version ="))
    with running(tmp_path, settings(DOOR)) as plant:
        assert plant.next_result("door")["model_version"] != "next"
        plant.pipelines.apply(settings(DOOR, models={"tiny": other}))
        plant.next_result("door", lambda body: body["model_version"] == "next")
        assert ("model_swapped", "next") in [(event, body.get("version")) for event, body in plant.events]
        ledger = plant.ledger("door")
        assert (ledger["failed"], ledger["shutdown"]) == (0, 0)
        manifest.write_text(manifest.read_text().replace('"next"', '"third"'))
        plant.pipelines.reload_model("tiny")
        plant.next_result("door", lambda body: body["model_version"] == "third")


def test_a_swap_tells_which_providers_do_not_work_for_the_new_model(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As the start does: a fallback is never silent."""
    # This build is made to have it; the child's has not.
    monkeypatch.setattr("agent.provision.available_providers", lambda: [NAMES["xnnpack"], NAMES["cpu"]])
    engine = {"providers": ["xnnpack", "cpu"]}
    other = Path(shutil.copytree(MODELS / "tiny", tmp_path / "tiny"))
    with running(tmp_path, settings(DOOR, engine=engine)) as plant:
        plant.pipelines.apply(settings(DOOR, models={"tiny": other}, engine=engine))
        (told,) = [body for event, body in plant.events if event == "provider_fallback"]
        assert (told["provider"], told["models"]) == ("xnnpack", ["tiny"])


def test_a_model_that_does_not_fit_beside_the_old_one_takes_its_place_where_that_is_allowed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Refused with the way out, without a gap; with the setting the old one goes first, and the gap is told."""
    other = Path(shutil.copytree(MODELS / "tiny", tmp_path / "tiny"))
    manifest = other / "model.toml"
    manifest.write_text('version = "next"\n' + manifest.read_text().replace("version =", "# version ="))
    wanted = settings(DOOR, models={"tiny": other})
    with running(tmp_path, settings(DOOR)) as plant:
        full_while_loaded(plant, monkeypatch)
        with pytest.raises(ConfigError, match=r"engine.cold_swap = true") as caught:
            plant.pipelines.apply(wanted)
        assert caught.value.harm == "too_big"
        assert plant.next_result("door")["model_version"] != "next"
    monkeypatch.undo()
    cold = {"cold_swap": True}
    with running(tmp_path, settings(DOOR, engine=cold)) as plant:
        full_while_loaded(plant, monkeypatch)
        plant.next_result("door")
        plant.pipelines.apply(settings(DOOR, models={"tiny": other}, engine=cold))
        plant.next_result("door", lambda body: body["model_version"] == "next")
        (swapped,) = [body for event, body in plant.events if event == "model_swapped"]
        assert swapped["gap_ms"] > 0
        ledger = plant.ledger("door")
        assert (ledger["failed"], ledger["shutdown"]) == (0, 0)


def test_a_cold_swap_that_fails_brings_the_old_model_back(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The new one fits, and is wrong: nobody sees more than a gap."""
    wrong = Path(shutil.copytree(MODELS / "tiny", tmp_path / "tiny"))
    (wrong / "golden.png").rename(wrong / "absent.png")
    cold = {"cold_swap": True}
    with running(tmp_path, settings(DOOR, engine=cold)) as plant:
        full_while_loaded(plant, monkeypatch)
        engine = plant.pipelines.models["tiny"].variants[0].engine
        with pytest.raises(ConfigError, match=r"golden\.png"):
            plant.pipelines.apply(settings(DOOR, models={"tiny": wrong}, engine=cold))
        assert engine.is_loaded
        assert plant.pipelines.models["tiny"].variants[0].engine is engine
        plant.next_result("door")
        assert not [event for event, _ in plant.events if event == "model_swapped"]


def test_streams_that_do_not_fit_are_refused_and_change_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As at a start, though no model comes in; a stream in the place of another takes no more than that one."""
    with running(tmp_path, settings(DOOR)) as plant:
        limit_bytes = plant.pipelines.provision.limit.limit_bytes
        monkeypatch.setattr("agent.provision.resident_bytes", lambda: limit_bytes - 20 * MIB)
        with pytest.raises(DoesNotFitError, match=r"would take \d+ MiB .* 36 MiB for streams that come\n") as caught:
            plant.pipelines.apply(settings(DOOR, YARD, {"name": "shed"}))
        assert caught.value.missing_bytes == 3 * 2 * FRAME_BYTES - 20 * MIB
        assert [stream.name for stream in plant.pipelines.streams] == ["door"]
        plant.next_result("door")
        plant.pipelines.apply(settings(DOOR, YARD))
        plant.next_result("yard")
        monkeypatch.setattr("agent.provision.resident_bytes", lambda: limit_bytes + MIB)
        plant.pipelines.apply(settings(DOOR, {"name": "shed"}))
        plant.next_result("shed")
        # One that was off held no frames.
        plant.pipelines.apply(settings(DOOR, {"name": "shed", "enabled": False}))
        with pytest.raises(DoesNotFitError):
            plant.pipelines.apply(settings(DOOR, {"name": "shed"}))


def test_a_cold_swap_is_judged_without_the_activations_of_the_old_model(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """They lie in the arena that it leaves behind."""
    cold = {"cold_swap": True}
    other = Path(shutil.copytree(MODELS / "tiny", tmp_path / "other"))
    with running(tmp_path, settings(DOOR, engine=cold)) as plant:
        provision, engine = plant.pipelines.provision, plant.pipelines.models["tiny"].variants[0].engine
        held_bytes = provision.held_bytes(["tiny"])
        arenas: list[bool] = []
        monkeypatch.setattr("agent.provision.share_arena", lambda _: arenas.append(engine.is_loaded))
        left = {True: 10 * held_bytes, False: 9 * held_bytes // 10}
        monkeypatch.setattr(
            "agent.provision.resident_bytes", lambda: provision.limit.limit_bytes - left[bool(arenas)]
        )
        plant.pipelines.apply(settings(DOOR, models={"tiny": other}, engine=cold))
        assert not arenas[0]
        assert [event for event, _ in plant.events if event == "model_swapped"]


def full_while_loaded(plant: Plant, monkeypatch: pytest.MonkeyPatch) -> None:
    """Let memory hold one model and nine tenths."""
    provision, engine = plant.pipelines.provision, plant.pipelines.models["tiny"].variants[0].engine
    held_bytes = provision.held_bytes(["tiny"])
    assert held_bytes > 0
    left = {True: 9 * held_bytes // 10, False: 10 * held_bytes}
    monkeypatch.setattr(
        "agent.provision.resident_bytes", lambda: provision.limit.limit_bytes - left[engine.is_loaded]
    )


def test_another_number_of_threads_is_a_swap_of_every_model(tmp_path: Path) -> None:
    """The threads of a session are fixed when it is made."""
    with running(tmp_path, settings(DOOR, threads=1)) as plant:
        plant.next_result("door")
        before = plant.pipelines.models["tiny"]
        plant.pipelines.apply(settings(DOOR, threads=2))
        plant.next_result("door")
        assert plant.pipelines.models["tiny"] is not before


def test_a_clip_that_ended_can_be_followed_by_another(tmp_path: Path) -> None:
    """Its inference thread had ended with it."""
    once = {**DOOR, "mode": "every_frame", "repeat": False}
    other = shutil.copy(CLIP, tmp_path / "other.mp4")
    with running(tmp_path, settings(once)) as plant:
        for worker in plant.pipelines._all_workers()[2:]:
            assert worker.join(WAIT_S)
        assert plant.pipelines.has_ended
        captured = plant.ledger("door")["captured"]
        plant.pipelines.apply(settings({**once, "source": str(other)}))
        plant.next_result("door")
        assert plant.ledger("door")["captured"] > captured


def test_a_model_that_takes_other_windows_gets_a_reader_of_its_own(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The source stays the same text; what is cut from it does not, and none of it reaches the new model."""
    start_servers = Pipelines._start_servers

    def start_slowly(pipelines: Pipelines, added: Mapping[str, LoadedModel]) -> None:
        start_servers(pipelines, added)
        threading.Event().wait(0.2)  # Six windows of the old reader's, were it still read.

    monkeypatch.setattr(Pipelines, "_start_servers", start_slowly)
    folder = shutil.copytree(SILERO_VAD, tmp_path / "slow")
    manifest = folder / "model.toml"
    text = manifest.read_text()
    manifest.write_text(text[: text.index("[golden]")].replace("context = 64", "context = 0"))
    models = {"fast": SILERO_VAD, "slow": folder}
    voice = {"name": "voice", "source": str(SPEECH)}
    with running(tmp_path, settings({**voice, "model": "fast"}, models=models)) as plant:
        assert plant.next_result("voice")["source"] == {"samples": 576, "channels": 1}
        plant.pipelines.apply(settings({**voice, "model": "slow"}, models=models))
        body = plant.next_result("voice", lambda body: body["model"] == "slow")
        assert body["source"] == {"samples": 512, "channels": 1}
    assert plant.ledger("voice")["failed"] == 0
