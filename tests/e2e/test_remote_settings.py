"""Settings over a real broker: applied, refused, kept over restarts, taken back."""

from __future__ import annotations

import json
import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.agent_process import AgentProcess, settings_text
from tests.broker import Broker, Publisher, Subscriber, needs_mosquitto
from tests.schemas import check_all

pytestmark = needs_mosquitto

DESIRED, REPORTED = "edgebeat/v1/porch/settings/desired", "porch/settings/reported"
STREAM = "repeat = true\nfps = 20"
PROVING = "[remote]\nprobation_s = 3"


class Site:
    """A broker, one who sees everything, and an operator."""

    def __init__(self, folder: Path, broker: Broker, subscriber: Subscriber, publisher: Publisher) -> None:
        self.folder = folder
        self.broker = broker
        self.subscriber = subscriber
        self._publisher = publisher

    def agent(self, *, stream: str = STREAM, more: str = PROVING, arguments: tuple[str, ...] = ()) -> AgentProcess:
        """Start the agent with a state folder of its own."""
        text = settings_text(url=self.broker.url, stream=stream, more=more, state=self.folder / "state")
        return AgentProcess(self.folder, text, *arguments)

    def ask(self, version: int, values: Any, **more: Any) -> None:
        """Publish a document, retained."""
        self.send(json.dumps({"schema": 1, "version": version, "values": values, **more}).encode())

    def send(self, payload: bytes) -> None:
        """Publish bytes, retained."""
        self._publisher.send(DESIRED, payload, retain=True)

    def reported_by_next_run(self) -> Any:
        """Wait for the first report of a run that was not heard of before, and return it."""
        known = {m.body["boot"] for m in self.subscriber.seen if m.topic.endswith(REPORTED)}
        return self.reported(lambda body: body["boot"] not in known)

    def reported(self, is_wanted: Callable[[Any], bool], timeout_s: float = 30) -> Any:
        """Wait for a report that fits and return it."""
        return self.subscriber.wait_for_body(REPORTED, is_wanted, timeout_s).body


@pytest.fixture
def site(tmp_path: Path) -> Iterator[Site]:
    with Broker(tmp_path) as broker, Subscriber(broker.port) as subscriber, Publisher(broker.port) as publisher:
        yield Site(tmp_path, broker, subscriber, publisher)


def test_a_live_change_is_applied_kept_proven_and_told(site: Site) -> None:
    """The next results carry the new deadline; a kill later the agent starts on it; each step is reported."""
    with site.agent() as agent:
        first = site.reported(lambda body: body["state"] == "applied")
        assert first["version"] == 0
        assert first["values"]["streams"]["door"]["deadline_ms"] is None
        site.ask(41, {"streams": {"door": {"deadline_ms": 900}}, "health": {"period_s": 2}})
        applied = site.reported(lambda body: body["version"] == 41)
        assert applied["state"] == "applied"
        assert applied["values"]["streams"]["door"]["deadline_ms"] == 900.0
        assert applied["probation_s"] > 0
        told = site.subscriber.wait_for("events/settings_applied").body
        assert told["changes"]["streams.door.deadline_ms"] == [None, 900.0]
        site.subscriber.wait_for("results/door", deadline_ms=900.0)
        site.reported(lambda body: body["version"] == 41 and body["proven"])
        agent.signal(signal.SIGKILL)
        agent.wait()
    with site.agent() as agent:
        assert site.reported_by_next_run()["version"] == 41
        site.subscriber.wait_for("results/door", deadline_ms=900.0)
        agent.terminate()
    check_all(site.subscriber.drain())


def test_the_steps_of_a_stream_are_set_from_afar(site: Site) -> None:
    """As their marks say: live, field by field; the source is not opened again."""
    with site.agent() as agent:
        site.subscriber.wait_for_body("results/door", lambda body: bool(body["classes"]))
        site.ask(1, {"streams": {"door": {"steps": {"filter": {"score_min": 1.0}}}}})
        site.subscriber.wait_for("results/door", classes=[])
        site.ask(2, {"streams": {"door": {"steps": {"presence": {"appear_s": 0}}}}})
        report = site.reported(lambda body: body["version"] == 2)
        assert report["values"]["streams"]["door"]["steps"]["presence"]["appear_s"] == 0.0
        site.subscriber.wait_for("events/object_appeared", stream="door")
        site.subscriber.wait_for_body("results/door", lambda body: bool(body["classes"]))
        site.reported(lambda body: body["version"] == 2 and body["proven"])
        summary = agent.terminate()
    assert summary["streams"]["door"]["source_losses"] == 0
    check_all(m for m in site.subscriber.drain() if not m.topic.endswith("/desired"))


def document(values: Any, *, version: int = 50, **more: Any) -> bytes:
    """Return a document as bytes."""
    return json.dumps({"schema": 1, "version": version, "values": values, **more}).encode()


def door(**fields: Any) -> bytes:
    """Return a document for one stream."""
    return document({"streams": {"door": fields}})


DOOR = "values.streams.door"
BAD: dict[str, tuple[bytes, dict[str, str]]] = {
    "no JSON": (b"{", {"": "not_json"}),
    "no object": (b"[1]", {"": "wrong_type"}),
    "text after the end": (b'{"schema":1,"version":50,"values":{}} x', {"": "not_json"}),
    "no UTF-8": (b'{"schema":1,"version":50,"values":{"\xff":1}}', {"": "not_utf8"}),
    "UTF-16": ('{"schema":1,"version":50,"values":{}}'.encode("utf-16"), {"": "not_utf8"}),
    "64 KiB and one byte": (document({"x": "y" * 65_536}), {"": "too_large"}),
    "depth bomb of lists": (b"[" * 60_000, {"": "too_deep"}),
    "depth bomb of objects": (b'{"a":' * 10_000, {"": "too_deep"}),
    "deep value": (document({"streams": json.loads("[" * 20 + "]" * 20)}), {"": "too_deep"}),
    "NaN": (
        b'{"schema":1,"version":50,"values":{"streams":{"door":{"max_fps":NaN}}}}',
        {f"{DOOR}.max_fps": "not_a_number"},
    ),
    "Infinity and 1e999": (
        b'{"schema":1,"version":50,"values":{"streams":{"door":{"max_fps":-Infinity,"deadline_ms":1e999}}}}',
        {f"{DOOR}.max_fps": "not_a_number", f"{DOOR}.deadline_ms": "number_too_large"},
    ),
    "an integer of 5,000 digits": (
        b'{"schema":1,"version":50,"values":{"streams":{"door":{"stride":' + b"9" * 5000 + b"}}}}",
        {f"{DOOR}.stride": "number_too_large"},
    ),
    "a key twice": (b'{"schema":1,"version":50,"values":{},"values":{}}', {"values": "duplicate_key"}),
    "a field twice": (
        b'{"schema":1,"version":50,"values":{"streams":{"door":{"stride":1,"stride":2}}}}',
        {f"{DOOR}.stride": "duplicate_key"},
    ),
    "half a surrogate pair": (
        b'{"schema":1,"version":50,"values":{"streams":{"door":{"source":"\\ud800"}}}}',
        {f"{DOOR}.source": "not_text"},
    ),
    "everything is missing": (b"{}", {"schema": "missing", "version": "missing", "values": "missing"}),
    "unknown top-level key": (document({}, valeus={}), {"valeus": "unknown_key"}),
    "a model": (document({}, model={"name": "x"}), {"model": "not_taken"}),
    "another schema": (b'{"schema":2,"version":50,"values":{}}', {"schema": "unsupported"}),
    "version as text": (b'{"schema":1,"version":"50","values":{}}', {"version": "wrong_type"}),
    "version true": (b'{"schema":1,"version":true,"values":{}}', {"version": "wrong_type"}),
    "version 50.0": (b'{"schema":1,"version":50.0,"values":{}}', {"version": "wrong_type"}),
    "version 0": (b'{"schema":1,"version":0,"values":{}}', {"version": "out_of_range"}),
    "version 2^53": (b'{"schema":1,"version":9007199254740992,"values":{}}', {"version": "out_of_range"}),
    "values as list": (document([]), {"values": "wrong_type"}),
    "unknown section": (document({"strems": {}}), {"values.strems": "unknown_key"}),
    "unknown field": (door(max_fsp=5), {f"{DOOR}.max_fsp": "unknown_key"}),
    "streams by index": (document({"streams": [{"max_fps": 5}]}), {"values.streams": "wrong_type"}),
    "a stream that is none": (document({"streams": {"dor": {"max_fps": 5}}}), {"values.streams.dor": "unknown_name"}),
    "a stream as number": (document({"streams": {"door": 5}}), {DOOR: "wrong_type"}),
    "a section as text": (document({"health": "often"}), {"values.health": "wrong_type"}),
    "a number as text": (door(max_fps="5"), {f"{DOOR}.max_fps": "wrong_type"}),
    "true for 1": (door(stride=True), {f"{DOOR}.stride": "wrong_type"}),
    "a number for true": (door(enabled=1), {f"{DOOR}.enabled": "wrong_type"}),
    "null where a value must be": (door(stride=None), {f"{DOOR}.stride": "wrong_type"}),
    "below the range": (door(max_fps=-1), {f"{DOOR}.max_fps": "out_of_range"}),
    "above the range": (door(deadline_ms=1e9), {f"{DOOR}.deadline_ms": "out_of_range"}),
    "no choice": (door(on_late="keep"), {f"{DOOR}.on_late": "not_a_choice"}),
    "empty source": (door(source=""), {f"{DOOR}.source": "out_of_range"}),
    "a source that is no file": (door(source="no/such.mp4"), {"values": "cannot_apply"}),
    "a model that is none": (door(model="other"), {f"{DOOR}.model": "unknown_name"}),
    "an unknown step": (door(steps={"trackr": {}}), {f"{DOOR}.steps.trackr": "unknown_key"}),
    "a step out of range": (
        door(steps={"tracker": {"iou_min": 7}}),
        {f"{DOOR}.steps.tracker.iou_min": "out_of_range"},
    ),
    "a line without a tracker": (
        door(steps={"lines": [{"name": "in", "start": [0, 0], "end": [1, 1]}]}),
        {f"{DOOR}.steps": "invalid_value"},
    ),
    "samples of a model of pictures": (door(samples={"rate_hz": 50}), {"values": "cannot_apply"}),
    "the broker": (document({"mqtt": {"url": "mqtt://evil"}}), {"values.mqtt.url": "local_only"}),
    "a prefix with a wildcard": (
        document({"mqtt": {"topic_prefix": "edgebeat/#"}}),
        {"values.mqtt.topic_prefix": "local_only"},
    ),
    "the device's name": (document({"device": {"id": "other"}}), {"values.device.id": "local_only"}),
    "a path": (door(annotated_image="/etc/passwd"), {f"{DOOR}.annotated_image": "local_only"}),
    "a model's path": (document({"models": {"seen": {"path": "/tmp"}}}), {"values.models.seen.path": "local_only"}),
    "a new model": (document({"models": {"new": {"keep_warm_s": 5}}}), {"values.models.new": "unknown_name"}),
    "another name": (door(name="gate"), {f"{DOOR}.name": "local_only"}),
    "a new stream's name": (
        document({"streams": {"a/+": {"source": "0", "model": "seen"}}}),
        {"values.streams.a/+.name": "invalid_value"},
    ),
    "the watch over changes": (document({"remote": {"probation_s": 2}}), {"values.remote.probation_s": "local_only"}),
    "one right and two wrong": (
        document({"streams": {"door": {"max_fps": 5, "stride": 0}}, "health": {"period_s": 0}}),
        {f"{DOOR}.stride": "out_of_range", "values.health.period_s": "out_of_range"},
    ),
    "an older version": (document({"health": {"period_s": 3}}, version=9), {"version": "stale"}),
    "the same version with other values": (
        document({"health": {"period_s": 3}}, version=10),
        {"version": "version_reused"},
    ),
}


@pytest.mark.timeout(300)
def test_a_bad_document_changes_nothing_and_each_error_has_its_path_and_code(site: Site) -> None:
    """One agent, one bad document after the other: each is told exactly, and none leaves a trace."""
    with site.agent() as agent:
        site.ask(10, {"streams": {"door": {"max_fps": 15}}})
        before = site.reported(lambda body: body["version"] == 10 and body["proven"])
        for name, (payload, errors) in BAD.items():
            site.send(payload)
            report = site.reported(lambda body: body["state"] in ("rejected", "stale"))
            assert {path: error["code"] for path, error in report["errors"].items()} == errors, name
            assert report["values"] == before["values"], name
            assert (report["version"], report["proven"]) == (10, True), name
        site.ask(51, {"streams": {"door": {"max_fps": 14}}})
        after = site.reported(lambda body: body["version"] == 51)
        assert after["errors"] == {}
        kept = json.loads((site.folder / "state/remote-settings.json").read_text())
        assert kept["current"]["values"] == {"streams": {"door": {"max_fps": 14}}}
        agent.terminate()
    check_all(m for m in site.subscriber.drain() if not m.topic.endswith("/desired"))


def test_a_setting_that_makes_every_frame_late_is_taken_back(site: Site) -> None:
    """Within the time of probation, with what was measured; the results are those of before."""
    with site.agent(more="[remote]\nprobation_s = 8") as agent:
        site.subscriber.wait_for_body(
            "porch/health", lambda body: body["streams"]["door"]["ledger"]["published"] > 30
        )
        site.ask(5, {"streams": {"door": {"deadline_ms": 0.1}}})
        site.reported(lambda body: body["version"] == 5)
        report = site.reported(lambda body: body["state"] == "rolled_back", timeout_s=15)
        assert report["version"] == 0
        assert report["rolled_back"]["version"] == 5
        assert report["rolled_back"]["check"] == "on_time"
        assert report["rolled_back"]["figures"]["on_time"] == 0.0
        assert report["values"]["streams"]["door"]["deadline_ms"] is None
        site.subscriber.wait_for("results/door", deadline_ms=250.0)
        agent.terminate()
    # The document still lies at the broker: a new run does not try it again.
    with site.agent() as agent:
        site.reported(lambda body: body["state"] == "rolled_back" and body["seen_version"] == 5)
        site.subscriber.wait_for("results/door", deadline_ms=250.0)
        agent.terminate()
    lines = (site.folder / "state/audit.jsonl").read_text().splitlines()
    actions = [json.loads(line)["action"] for line in lines]
    assert actions == ["applied", "rolled_back"]


def test_a_setting_that_kills_the_source_is_taken_back(site: Site) -> None:
    """A camera address where nobody answers: the stream comes back with its old source."""
    with site.agent(more="[remote]\nprobation_s = 8") as agent:
        site.subscriber.wait_for("results/door")
        site.ask(6, {"streams": {"door": {"source": "http://127.0.0.1:9/none.mjpg"}}})
        site.reported(lambda body: body["version"] == 6)
        report = site.reported(lambda body: body["state"] == "rolled_back", timeout_s=30)
        assert report["rolled_back"]["check"] == "streams"
        assert report["rolled_back"]["figures"]["stream"] == "door"
        site.subscriber.wait_for("results/door", timeout_s=30)
        agent.terminate()


def test_a_source_that_can_never_work_is_taken_back_although_no_other_stream_is_left(site: Site) -> None:
    """The agent does not end with its last stream while a change is on probation."""
    clip = site.folder / "broken.mp4"
    clip.write_bytes(bytes(1000))
    with site.agent(more="[remote]\nprobation_s = 8") as agent:
        site.subscriber.wait_for("results/door")
        site.ask(6, {"streams": {"door": {"source": str(clip)}}})
        report = site.reported(lambda body: body["state"] == "rolled_back")
        assert report["rolled_back"]["check"] == "streams"
        assert not report["rolled_back"]["figures"]["is_open"]
        site.subscriber.wait_for("events/settings_rolled_back")
        site.subscriber.wait_for("results/door")
        summary = agent.terminate()
    assert summary["restarts"] == 0


def test_what_no_run_survives_is_given_up_and_told(site: Site) -> None:
    """Killed three times before it was proven: the fourth run starts on the settings of the device."""
    with site.agent(more="[remote]\nprobation_s = 60") as agent:
        site.ask(7, {"streams": {"door": {"max_fps": 3}}})
        site.reported(lambda body: body["version"] == 7)
        agent.signal(signal.SIGKILL)
        agent.wait()
    for _ in range(3):
        with site.agent(more="[remote]\nprobation_s = 60") as agent:
            assert site.reported_by_next_run()["version"] == 7
            agent.signal(signal.SIGKILL)
            agent.wait()
    with site.agent(more="[remote]\nprobation_s = 60") as agent:
        report = site.reported_by_next_run()
        assert (report["state"], report["version"]) == ("rolled_back", 0)
        assert report["rolled_back"]["check"] == "starts"
        told = [m.body for m in site.subscriber.drain() if m.topic.endswith("events/settings_rolled_back")]
        if not told:
            told = [site.subscriber.wait_for("events/settings_rolled_back").body]
        assert [(body["check"], body["to_version"]) for body in told] == [("starts", 0)]
        assert report["values"]["streams"]["door"]["max_fps"] is None
        agent.terminate()


def test_the_device_may_refuse_and_may_override(site: Site) -> None:
    """`remote.settings = false` obeys nobody; a command line wins over a document, which is said."""
    with site.agent(more="[remote]\nsettings = false") as agent:
        site.ask(1, {"health": {"period_s": 9}})
        report = site.reported(lambda body: body["state"] == "rejected")
        assert report["errors"][""]["code"] == "refused"
        agent.terminate()
    with site.agent(more=PROVING, arguments=("--mqtt", site.broker.url)) as agent:
        site.ask(2, {"spool": {"max_hours": 5}, "health": {"period_s": 9}})
        report = site.reported(lambda body: body["version"] == 2)
        assert report["state"] == "restart_required"
        assert report["restart"] == ["spool.max_hours"]
        agent.terminate()
    with site.agent() as agent:
        report = site.reported_by_next_run()
        assert (report["state"], report["version"]) == ("applied", 2)
        site.reported(lambda body: body["proven"])
        agent.terminate()


def test_a_change_after_which_the_broker_is_away_is_taken_back(site: Site) -> None:
    """By the device alone; it says so when it is back."""
    with site.agent(more="[remote]\nprobation_s = 6") as agent:
        site.ask(3, {"streams": {"door": {"max_fps": 9}}})
        site.reported(lambda body: body["version"] == 3)
        site.broker.kill()
        agent.wait_for_log("settings v3: rolled back: broker")
        site.broker.start()
        report = site.reported(lambda body: body["state"] == "rolled_back")
        assert (report["version"], report["rolled_back"]["check"]) == (0, "broker")
        agent.terminate()
