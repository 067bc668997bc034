"""What becomes of a document, step by step."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from agent.clock import NS_PER_S
from agent.core.message import Message
from agent.core.probation import Readings, StreamReading
from agent.core.reconcile import Record
from agent.desired.audit import FILE as AUDIT_FILE
from agent.desired.audit import Audit
from agent.desired.file_trial import FILE as TRIAL_FILE
from agent.desired.file_trial import FileTrial, FileTrials
from agent.desired.receiver import SettingsReceiver
from agent.desired.reporting import REJECTIONS_BURST
from agent.desired.surroundings import Surroundings
from agent.errors import ConfigError
from agent.interfaces import Received
from agent.layers import Layers, Leaf
from agent.settings import Settings
from tests.fakes import ManualClock

VALUES: dict[tuple[str | int, ...], Any] = {
    ("remote", "probation_s"): 10.0,
    ("models", 0, "name"): "seen",
    ("models", 0, "path"): "m",
    ("streams", 0, "name"): "door",
    ("streams", 0, "source"): "rtsp://user:secret@camera",
    ("streams", 0, "model"): "seen",
}
FILE = "agent.toml"
LAYERS = Layers(tuple(Leaf(path, value, FILE) for path, value in VALUES.items()), place=FILE)


class Device:
    """A receiver and everything around it."""

    def __init__(self, folder: Path, record: Record | None = None, good: Layers | None = None) -> None:
        self.clock = ManualClock()
        self.record = record or Record()
        self.saves_until_full = 1000
        self.refusals: list[Exception] = []
        self.applied: list[Settings] = []
        self.reports: list[Mapping[str, Any]] = []
        self.events: list[str] = []
        self.bodies: list[Mapping[str, Any]] = []
        self.restarts: list[str] = []
        self.missed_share = 0.0
        self.frames = 0
        self.missed = 0
        self.audit_file = folder / AUDIT_FILE
        self.files = FileTrials(folder)
        self.layers = LAYERS
        self.unreadable = ""
        self.reloads = 0
        around = Surroundings(
            emit=self._emit,
            report=self._report,
            read=self._read,
            restart=self.restarts.append,
            reread=self._reread,
            reloaded=self._reloaded,
            clock=self.clock,
        )
        self.receiver = SettingsReceiver(
            LAYERS,
            self.record,
            LAYERS.load(),
            store=self,
            audit=Audit(folder, self.clock),
            applier=self,
            around=around,
            good=good,
            files=self.files,
        )

    @property
    def last(self) -> Mapping[str, Any]:
        """The newest report."""
        return self.reports[-1]

    @property
    def fps(self) -> float | None:
        """What the running agent was last told."""
        return self.applied[-1].streams[0].max_fps

    def save(self, record: Record) -> None:
        """See `Store.save`."""
        self.saves_until_full -= 1
        if self.saves_until_full < 0:
            raise OSError(28, "No space left on device")
        self.record = record or Record()

    def apply(self, settings: Settings) -> None:
        """See `Applier.apply`."""
        if self.refusals:
            raise self.refusals.pop(0)
        self.applied.append(settings)

    def ask(self, version: int, fps: float = 5.0, **more: Any) -> Mapping[str, Any]:
        """Send a document and return what is reported of it."""
        values = {"streams": {"door": {"max_fps": fps, **more}}}
        payload = json.dumps({"schema": 1, "version": version, "values": values}).encode()
        self.receiver.receive(Received("settings/desired", payload, user_properties=(("asked_by", "ada"),)))
        return self.last

    def edit(self, values: Mapping[tuple[str | int, ...], Any]) -> str:
        """Save a settings file with other values, reload, and return what is told of it."""
        changed = {**VALUES, **values}
        self.layers = Layers(tuple(Leaf(path, value, "agent.toml:7") for path, value in changed.items()), place=FILE)
        return self.reload()

    def reload(self) -> str:
        """Reload and return the newest event."""
        known = self.reloads
        self.receiver.request_reload()
        self.receiver.turn(self.clock.now_ns())
        assert self.reloads == known + 1
        return self.events[-1] if self.events else ""

    def wait(self, seconds: int) -> None:
        """Let time pass, ten frames a second."""
        for _ in range(seconds):
            self.clock.ns += NS_PER_S
            self.frames += 10
            self.missed += round(10 * self.missed_share)
            self.receiver.turn(self.clock.now_ns())

    def _read(self) -> Readings:
        return Readings({"door": StreamReading(self.frames, self.frames - self.missed, self.missed)})

    def _emit(self, message: Message) -> None:
        assert (message.topic, message.retain, message.qos) == ("settings/reported", True, 1)
        json.dumps(message.body, allow_nan=False)
        self.reports.append(message.body)

    def _report(self, event: str, body: Mapping[str, Any]) -> None:
        assert "secret" not in json.dumps(body)
        self.events.append(event)
        self.bodies.append(body)

    def _reread(self) -> Layers:
        if self.unreadable:
            raise ConfigError(self.unreadable)
        return self.layers

    def _reloaded(self) -> None:
        self.reloads += 1


def test_a_change_is_on_disk_before_it_is_applied(tmp_path: Path) -> None:
    """A run that dies while it is applied is counted by the next one."""
    device = Device(tmp_path)
    device.refusals = [ConfigError("no such camera")]
    kept: list[int] = []
    device.apply = lambda settings: kept.append(device.record.version_max)  # type: ignore[method-assign]
    device.ask(3)
    assert kept == [3]


def test_a_change_that_cannot_be_applied_leaves_nothing_behind(tmp_path: Path) -> None:
    """Neither on disk nor in the version: the same number may be used again."""
    device = Device(tmp_path)
    device.refusals = [ConfigError("no such camera")]
    report = device.ask(3)
    assert (report["state"], report["version"]) == ("rejected", 0)
    assert report["errors"]["values"]["message"] == "no such camera"
    assert device.record == Record()
    assert device.ask(3)["state"] == "applied"


def test_a_bug_while_it_is_applied_brings_the_old_settings_back(tmp_path: Path) -> None:
    """And where that fails too, a new run begins on what is kept."""
    device = Device(tmp_path)
    device.refusals = [RuntimeError("half done")]
    assert device.ask(3)["errors"]["values"]["code"] == "cannot_apply"
    assert device.fps is None
    device.refusals = [RuntimeError("half done"), RuntimeError("worse")]
    device.ask(4)
    assert device.restarts
    assert device.record == Record()


def test_without_a_disk_nothing_is_accepted_and_a_way_back_goes_on(tmp_path: Path) -> None:
    """What would be forgotten is refused; what is in force may be given up all the same."""
    device = Device(tmp_path)
    device.saves_until_full = 0
    report = device.ask(3)
    assert report["errors"][""]["code"] == "not_kept"
    assert device.applied == []
    device.saves_until_full = 1
    device.ask(3)
    assert device.receiver.give_up(3, "ada")
    assert device.fps is None
    assert (device.last["state"], device.last["rolled_back"]["check"]) == ("rolled_back", "operator")
    assert "settings_not_kept" in device.events
    assert not device.receiver.give_up(0, "ada")


def test_a_proven_document_gives_way_to_the_one_that_was_proven_before(tmp_path: Path) -> None:
    """One step at a time, down to the device's own; a version that is not in force gives nothing up."""
    device = Device(tmp_path)
    device.wait(10)
    for version in (1, 2):
        device.ask(version, 6.0 + version)
        device.wait(10)
        assert device.last["proven"]
    assert device.receiver.way_back() == (2, 1)
    assert not device.receiver.give_up(1, "ada")
    assert device.receiver.give_up(2, "ada")
    assert (device.fps, device.last["version"], device.last["proven"]) == (7.0, 1, True)
    assert device.last["rolled_back"] == {"version": 2, "check": "operator", "figures": {"asked_by": "ada"}}
    assert device.ask(2, 8.0)["version"] == 1  # The retained document comes again with each connection.
    assert device.receiver.give_up(1, "ada")
    assert (device.fps, device.last["version"]) == (None, 0)
    assert device.receiver.way_back() is None


def test_a_newer_document_during_a_probation_does_not_make_the_first_one_good(tmp_path: Path) -> None:
    """When the second fails, both go."""
    device = Device(tmp_path)
    device.wait(10)
    device.ask(1, 7.0)
    device.wait(10)
    assert device.last["proven"]
    device.ask(2, 8.0)
    device.wait(3)
    device.ask(3, 9.0)
    device.missed_share = 1.0
    device.wait(5)
    assert (device.last["state"], device.last["version"]) == ("rolled_back", 1)
    assert device.last["rolled_back"]["version"] == 3
    assert device.fps == 7.0


def test_a_share_that_was_known_before_an_unproven_document_stays_the_measure(tmp_path: Path) -> None:
    """Otherwise two bad documents in a row would pass: the second is compared with the first."""
    device = Device(tmp_path)
    device.wait(10)
    device.ask(1, 7.0)
    device.missed_share = 0.5
    device.wait(1)
    device.ask(2, 8.0)
    device.wait(6)
    assert device.last["rolled_back"]["figures"]["before"] == 1.0


def test_what_comes_again_is_reported_again_and_told_once(tmp_path: Path) -> None:
    """A retained document comes with each connection."""
    device = Device(tmp_path)
    device.ask(3)
    device.ask(3)
    device.receiver.connected()
    assert [report["state"] for report in device.reports] == ["applied"] * 3
    device.ask(4, -1.0)
    device.ask(4, -1.0)
    assert [report["state"] for report in device.reports[3:]] == ["rejected"] * 2
    assert device.events == ["settings_applied", "settings_rejected"]


def test_a_flood_of_bad_documents_does_not_wear_the_disk(tmp_path: Path) -> None:
    """Each is reported, few are written down."""
    device = Device(tmp_path)
    for version in range(1, 200):
        device.ask(version, -float(version))
    assert len(device.reports) == 199
    assert device.events.count("settings_rejected") == REJECTIONS_BURST
    assert len(device.audit_file.read_text().splitlines()) == REJECTIONS_BURST


def test_the_audit_says_who_and_what_without_passwords(tmp_path: Path) -> None:
    """One line a change, with both values."""
    device = Device(tmp_path)
    device.ask(3, source="rtsp://user:other@camera")
    (line,) = device.audit_file.read_text().splitlines()
    entry = json.loads(line)
    assert (entry["action"], entry["version"], entry["asked_by"]) == ("applied", 3, "ada")
    assert entry["changes"]["streams.door.max_fps"] == [None, 5.0]
    assert "secret" not in line
    assert "other" not in line
    assert "other" not in json.dumps(device.last)


def test_what_needs_a_restart_is_not_proven_before_it(tmp_path: Path) -> None:
    """Nobody has seen it in force yet."""
    device = Device(tmp_path)
    values = {"schema": 1, "version": 1, "values": {"spool": {"max_hours": 3}}}
    device.receiver.receive(Received("settings/desired", json.dumps(values).encode()))
    device.wait(15)
    assert (device.last["state"], device.last["restart"]) == ("restart_required", ["spool.max_hours"])
    assert not device.last["proven"]
    assert not device.record.is_proven


def test_a_run_that_ends_on_purpose_does_not_count_against_the_document(tmp_path: Path) -> None:
    """Somebody who restarts the service four times in a minute is no crash."""
    device = Device(tmp_path, Record(starts=2))
    device.receiver.stopped()
    assert device.record.starts == 0


def test_an_empty_payload_clears_the_broker_and_changes_nothing(tmp_path: Path) -> None:
    """How a retained message is removed."""
    device = Device(tmp_path)
    device.ask(3)
    device.receiver.receive(Received("settings/desired", b""))
    assert len(device.reports) == 1
    assert device.record.version_max == 3


FPS = ("streams", 0, "max_fps")
URL = ("mqtt", "url")


def test_a_settings_file_is_applied_watched_and_told(tmp_path: Path) -> None:
    """As a document is; the version of the document in force stays."""
    device = Device(tmp_path)
    device.wait(3)
    assert device.edit({FPS: 5.0}) == "settings_applied"
    assert device.fps == 5.0
    told = device.bodies[-1]
    assert told["changes"] == {"streams.door.max_fps": [None, 5.0]}
    assert (told["version"], told["asked_by"], told["file"], told["restart"]) == (0, "SIGHUP", FILE, [])
    assert (device.last["state"], device.last["version"]) == ("applied", 0)
    assert device.last["probation_s"] > 0
    device.wait(11)
    assert device.events == ["settings_applied", "settings_proven"]
    assert [json.loads(line)["action"] for line in device.audit_file.read_text().splitlines()] == [
        "applied",
        "proven",
    ]


def test_a_file_that_costs_deadlines_goes_back(tmp_path: Path) -> None:
    """To what was good, and a further reload tries the file again: somebody asked for it."""
    device = Device(tmp_path)
    device.wait(10)
    device.edit({FPS: 5.0})
    device.missed_share = 1.0
    device.wait(6)
    assert device.events == ["settings_applied", "settings_rolled_back"]
    assert (device.bodies[-1]["check"], device.bodies[-1]["file"]) == ("on_time", FILE)
    assert device.bodies[-1]["changes"] == {"streams.door.max_fps": [5.0, None]}
    assert device.fps is None
    assert device.record == Record()
    device.missed_share = 0.0
    assert device.reload() == "settings_applied"
    assert device.fps == 5.0


def test_a_file_that_is_not_valid_changes_nothing(tmp_path: Path) -> None:
    """Unreadable, wrong in a value, or no good for what runs: told with line and field, without passwords."""
    device = Device(tmp_path)
    device.unreadable = "agent.toml:3: not TOML: rtsp://user:secret@camera"
    assert device.reload() == "settings_rejected"
    assert device.bodies[-1]["problems"] == ["agent.toml:3: not TOML: rtsp://***@camera"]
    device.unreadable = ""
    assert device.edit({FPS: -1.0}) == "settings_rejected"
    assert device.bodies[-1]["problems"][0].startswith("agent.toml:7: streams.0.max_fps: ")
    device.refusals = [ConfigError("m: no such model")]
    assert device.edit({FPS: 4.0}) == "settings_rejected"
    assert device.bodies[-1]["problems"] == ["m: no such model"]
    assert device.applied == []
    assert device.receiver.settings.streams[0].max_fps is None
    device.layers = LAYERS
    device.reload()
    assert device.events == ["settings_rejected"] * 3  # It is as it was: nothing to tell.


def test_a_document_stays_above_the_file(tmp_path: Path) -> None:
    """What it sets it sets still; what it leaves alone follows the file."""
    device = Device(tmp_path)
    device.ask(1, 7.0)
    device.wait(11)
    device.edit({FPS: 5.0, ("streams", 0, "deadline_ms"): 300.0})
    stream = device.applied[-1].streams[0]
    assert (stream.max_fps, stream.deadline_ms) == (7.0, 300.0)
    assert device.bodies[-1]["version"] == 1
    assert device.receiver.give_up(1, "desk")
    assert device.fps is None  # The file was not proven yet: both go.
    device.reload()
    device.wait(11)
    assert device.fps == 5.0


def test_a_file_that_a_document_does_not_hold_with_is_refused(tmp_path: Path) -> None:
    """The document speaks of a stream that the file does not have any more."""
    device = Device(tmp_path)
    device.ask(1, 7.0)
    device.wait(11)
    device.edit({("streams", 0, "name"): "gate"})
    (problem,) = device.bodies[-1]["problems"]
    assert problem.startswith("v1 from afar does not hold with it: values.streams.door: is no name under streams")
    assert device.last["accepted"] == {"streams": {"door": {"max_fps": 7.0}}}


def test_a_document_and_a_file_that_are_both_unproven_go_together(tmp_path: Path) -> None:
    """Whichever was to blame."""
    device = Device(tmp_path)
    device.wait(10)
    device.ask(1, 7.0)
    device.wait(2)
    device.edit({("streams", 0, "deadline_ms"): 300.0})
    device.missed_share = 1.0
    device.wait(6)
    assert device.events[2:] == ["settings_rolled_back"] * 2
    stream = device.applied[-1].streams[0]
    assert (stream.max_fps, stream.deadline_ms) == (None, None)
    assert device.last["rolled_back"]["version"] == 1


def test_what_only_a_start_brings_in_is_named_and_not_applied(tmp_path: Path) -> None:
    """The other values are in force; a document that follows is proven all the same."""
    device = Device(tmp_path)
    device.edit({URL: "mqtt://other:1883", ("spool", "max_hours"): 3.0, FPS: 5.0})
    assert device.bodies[-1]["restart"] == ["spool.max_hours", "mqtt.url"]
    assert device.applied[-1].mqtt == LAYERS.load().settings.mqtt
    assert (device.last["state"], device.last["restart"]) == ("restart_required", ["spool.max_hours", "mqtt.url"])
    device.ask(1, 6.0)
    device.wait(11)
    assert device.last["proven"]
    device.layers = LAYERS
    device.reload()
    assert (device.last["state"], device.last["restart"]) == ("applied", [])


def test_a_file_with_nothing_to_apply_is_told_and_not_watched(tmp_path: Path) -> None:
    """Nothing in this run is different; the run that follows in place watches it, and can go back."""
    device = Device(tmp_path)
    device.edit({URL: "mqtt://other:1883"})
    assert device.applied == []
    assert not device.receiver.snapshot()["is_proving"]
    layers, good = device.receiver.for_next_run(has_hung=False)
    assert (layers, good) == (device.layers, LAYERS)


def test_a_restart_in_place_goes_on_with_the_file_and_a_hang_does_not(tmp_path: Path) -> None:
    """Unproven, it stays on probation; a hang counts against it."""
    device = Device(tmp_path)
    device.edit({FPS: 5.0})
    assert device.receiver.for_next_run(has_hung=False) == (device.layers, LAYERS)
    assert device.receiver.given_up_by_hang("") == []
    assert device.receiver.for_next_run(has_hung=True) == (LAYERS, None)
    (told,) = device.receiver.given_up_by_hang("seen hung")
    assert (told["check"], told["figures"], told["file"]) == ("hung", {"reason": "seen hung"}, FILE)
    device.wait(11)
    assert device.receiver.for_next_run(has_hung=True) == (device.layers, None)
    assert device.receiver.given_up_by_hang("seen hung") == []


def test_a_run_that_began_on_an_unproven_file_watches_it(tmp_path: Path) -> None:
    """What cannot be brought back in this run, such as the broker, comes back with another restart in place."""
    other = {**VALUES, URL: "mqtt://other:1883"}
    good = Layers(tuple(Leaf(path, value, FILE) for path, value in other.items()), place=FILE)
    device = Device(tmp_path, good=good)
    device.missed_share = 1.0
    device.wait(11)
    assert device.events == ["settings_rolled_back"]
    assert device.restarts == [f"{FILE} was given up, and only a start brings back what was before it"]
    assert device.receiver.for_next_run(has_hung=False)[0] == good


def test_a_file_is_on_disk_as_on_trial_before_it_is_applied(tmp_path: Path) -> None:
    """A run that dies of it is counted by the next start; once it is proven nothing is kept of it."""
    device = Device(tmp_path)
    kept: list[FileTrial | None] = []
    device.apply = lambda settings: kept.append(FileTrials(tmp_path).load(LAYERS))  # type: ignore[method-assign]
    device.edit({FPS: 5.0})
    assert kept == [FileTrial.of(device.layers, LAYERS)]
    device.wait(11)
    assert device.events[-1] == "settings_proven"
    assert FileTrials(tmp_path).load(LAYERS) is None


def test_a_file_that_cannot_be_applied_leaves_no_trial(tmp_path: Path) -> None:
    """Nor does it end that of the one before."""
    device = Device(tmp_path)
    device.refusals = [ConfigError("m: no such model")]
    device.edit({FPS: 4.0})
    assert device.files.trial is None
    device.edit({FPS: 5.0})
    on_trial = device.files.trial
    device.refusals = [ConfigError("m: no such model")]
    device.edit({FPS: 6.0})
    assert device.files.trial == on_trial


def test_a_file_that_was_given_up_is_kept_and_reported_as_such(tmp_path: Path) -> None:
    """Until it is read again; a document that is proven meanwhile changes nothing about it."""
    device = Device(tmp_path)
    device.wait(10)
    device.edit({("streams", 0, "deadline_ms"): 300.0})
    device.missed_share = 1.0
    device.wait(6)
    device.missed_share = 0.0
    device.ask(1, stride=2)
    device.wait(11)
    found = FileTrials(tmp_path).load(LAYERS)
    assert found is not None
    assert found.holds_for(device.layers)
    assert found.check == "on_time"
    assert device.last["file_given_up"] == {"file": FILE, "check": "on_time", "figures": found.figures}
    device.reload()
    assert "file_given_up" not in device.last
    assert device.files.trial == FileTrial.of(device.layers, LAYERS)


def test_a_file_that_was_given_up_and_corrected_is_not_reported_any_more(tmp_path: Path) -> None:
    """It says again what is in force: nothing is to be applied, and nothing is on trial."""
    device = Device(tmp_path)
    device.wait(10)
    device.edit({FPS: 5.0})
    device.missed_share = 1.0
    device.wait(6)
    assert "file_given_up" in device.last
    device.layers = LAYERS
    device.reload()
    assert "file_given_up" not in device.last
    assert device.files.trial is None


def test_what_waits_for_a_start_stays_on_trial(tmp_path: Path) -> None:
    """The rest of the file is proven; nobody has seen another broker in force."""
    device = Device(tmp_path)
    device.edit({FPS: 5.0, URL: "mqtt://other:1883"})
    device.wait(11)
    assert device.events[-1] == "settings_proven"
    assert device.files.trial == FileTrial.of(device.layers, LAYERS)
    device.layers = LAYERS
    device.reload()
    device.wait(11)
    assert device.files.trial is None


def test_a_run_that_ends_on_purpose_does_not_count_against_the_file(tmp_path: Path) -> None:
    """As with a document."""
    device = Device(tmp_path, good=LAYERS)
    device.files.put(FileTrial.of(LAYERS, LAYERS).begun())
    device.receiver.stopped()
    found = FileTrials(tmp_path).load(LAYERS)
    assert found is not None
    assert found.starts == 0


def test_a_disk_that_takes_no_trial_is_told_and_the_file_applied(tmp_path: Path) -> None:
    """It lies on the same disk, so that the next start reads it in any case."""
    device = Device(tmp_path)
    (tmp_path / f".{TRIAL_FILE}.part").mkdir()
    assert device.edit({FPS: 5.0}) == "settings_applied"
    assert device.events[0] == "settings_not_kept"
    assert device.fps == 5.0
