"""SIGHUP with a real agent and a real broker: the settings file is applied, refused, or taken back."""

from __future__ import annotations

import json
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.agent_process import AgentProcess, settings_text
from tests.broker import Broker, Publisher, Subscriber, needs_mosquitto
from tests.schemas import check_all

pytestmark = needs_mosquitto

REPORTED = "porch/settings/reported"
STREAM = "repeat = true\nfps = 20\n"
PROVING = "[remote]\nprobation_s = 3\n"


class Site:
    """An agent with a settings file, a broker, and those who read and write there."""

    def __init__(self, folder: Path, broker: Broker, subscriber: Subscriber, publisher: Publisher) -> None:
        self._state = folder / "state"
        self._broker = broker
        self.subscriber = subscriber
        self.publisher = publisher
        self.process = AgentProcess(folder, self.text())
        self.process.wait_for_log("ready: door")
        subscriber.wait_for("results/door")

    def text(self, stream: str = "", more: str = "", **changed: Any) -> str:
        """Return the text of a settings file."""
        url = changed.pop("url", self._broker.url)
        return settings_text(url=url, stream=STREAM + stream, more=PROVING + more, state=self._state, **changed)

    def reload(self, text: str) -> None:
        """Save a file and send SIGHUP."""
        self.process.config.write_text(text)
        self.process.signal(signal.SIGHUP)

    def event(self, name: str) -> Any:
        """Wait for an event and return its body."""
        return self.subscriber.wait_for(f"events/{name}").body

    def last_report(self) -> Any:
        """Return the newest `settings/reported` that came before what was waited for last."""
        return next(m.body for m in reversed(self.subscriber.seen) if m.topic.endswith(REPORTED))


@pytest.fixture
def site(tmp_path: Path) -> Iterator[Site]:
    with Broker(tmp_path) as broker, Subscriber(broker.port) as subscriber, Publisher(broker.port) as publisher:
        site = Site(tmp_path, broker, subscriber, publisher)
        with site.process:
            yield site


def test_live_and_reload_fields_take_effect_and_are_proven(site: Site) -> None:
    """The next results carry the deadline, the source is opened anew; what needs a start is named; no restart."""
    site.reload(site.text("deadline_ms = 900\nwidth = 320\n", "[spool]\nmax_hours = 3\n", mqtt="keepalive_s = 11"))
    told = site.event("settings_applied")
    assert told["changes"]["streams.door.deadline_ms"] == [None, 900.0]
    assert told["changes"]["mqtt.keepalive_s"][1] == 11
    assert (told["asked_by"], told["file"]) == ("SIGHUP", str(site.process.config))
    assert told["restart"] == ["spool.max_hours", "mqtt.keepalive_s"]
    site.subscriber.wait_for("results/door", deadline_ms=900.0)
    assert site.event("settings_proven")["file"] == str(site.process.config)
    report = site.last_report()
    assert (report["state"], report["restart"]) == ("restart_required", ["spool.max_hours", "mqtt.keepalive_s"])
    assert site.process.terminate()["restarts"] == 0
    check_all(site.subscriber.drain())


def test_a_file_that_is_wrong_changes_nothing_and_says_where(site: Site) -> None:
    """A value out of range with its line and field, a half-written file, a model that is not there."""
    text = site.text("max_fps = -1\n")
    line = text.splitlines().index("max_fps = -1") + 1
    site.reload(text)
    (problem,) = site.event("settings_rejected")["problems"]
    assert problem.startswith(f"{site.process.config}:{line}: streams.0.max_fps: ")
    site.process.wait_for_log(problem)
    site.reload(site.text()[:-80] + "[[str")
    assert site.event("settings_rejected")["errors_count"] >= 1
    site.reload(site.text(model=Path("/nowhere/model")))
    (problem,) = site.event("settings_rejected")["problems"]
    assert "/nowhere/model" in problem
    site.subscriber.wait_for("results/door")
    site.process.terminate()


def test_a_file_that_costs_the_stream_its_frames_goes_back(site: Site) -> None:
    """The camera is not there: the last good source returns by itself, and the log says what to do."""
    site.reload(site.text(source="/dev/video99"))
    site.event("settings_applied")
    told = site.event("settings_rolled_back")
    assert (told["check"], told["figures"]["stream"], told["file"]) == ("streams", "door", str(site.process.config))
    site.subscriber.wait_for("results/door")
    site.process.wait_for_log("still says otherwise: what was before it is in force until it says something else")
    site.process.terminate()


def test_the_file_stays_below_a_document_from_afar(site: Site) -> None:
    """What the document sets stays as it is, the rest follows the file."""
    document = {"schema": 1, "version": 9, "values": {"streams": {"door": {"deadline_ms": 800}}}}
    site.publisher.send("edgebeat/v1/porch/settings/desired", json.dumps(document).encode(), retain=True)
    site.subscriber.wait_for_body(REPORTED, lambda body: body["version"] == 9 and body["proven"], 30)
    site.reload(site.text("deadline_ms = 700\nmax_fps = 8\n"))
    while (told := site.event("settings_applied")).get("file") is None:
        pass  # That of the document.
    assert (told["version"], list(told["changes"])) == (9, ["streams.door.max_fps"])
    site.subscriber.wait_for("results/door", deadline_ms=800.0)
    site.process.terminate()


def test_a_restart_in_place_brings_in_what_waited(site: Site) -> None:
    """After the command `restart` nothing waits any more, and the file is watched from then on."""
    site.reload(site.text(mqtt="keepalive_s = 11"))
    assert site.event("settings_applied")["restart"] == ["mqtt.keepalive_s"]
    request = b'{"id":"a1","reply":"desk"}'
    site.publisher.send("edgebeat/v1/porch/commands/restart", request)
    site.event("restarted")
    assert site.event("settings_proven")["file"] == str(site.process.config)
    assert (site.last_report()["state"], site.last_report()["restart"]) == ("applied", [])
    assert site.process.terminate()["restarts"] == 1


def test_a_restart_in_place_that_loses_the_broker_goes_back_by_itself(site: Site) -> None:
    """Nobody could have told it to: with a wrong address there is nobody to hear from."""
    site.reload(site.text(url="mqtt://127.0.0.1:9"))
    assert site.event("settings_applied")["restart"] == ["mqtt.url"]
    site.publisher.send("edgebeat/v1/porch/commands/restart", b'{"id":"a1","reply":"desk"}')
    told = site.subscriber.wait_for("events/settings_rolled_back", 60).body
    assert (told["check"], told["file"]) == ("broker", str(site.process.config))
    assert told["changes"]["mqtt.url"][0] == "mqtt://127.0.0.1:9"
    site.subscriber.wait_for("results/door")
    assert site.process.terminate()["restarts"] == 2


def test_a_file_that_no_run_survives_leads_back_to_the_last_good_settings(tmp_path: Path) -> None:
    """Killed three times before it was proven: the next starts go on by what was before it, and say why."""
    with Broker(tmp_path) as broker, Subscriber(broker.port) as subscriber:
        more, state = "[remote]\nprobation_s = 60\n", tmp_path / "state"
        good, bad = (
            settings_text(url=broker.url, stream=f"{STREAM}deadline_ms = {ms}\n", more=more, state=state)
            for ms in (700, 800)
        )
        with AgentProcess(tmp_path, good) as agent:
            subscriber.wait_for("results/door", deadline_ms=700.0)
            agent.config.write_text(bad)
            agent.signal(signal.SIGHUP)
            subscriber.wait_for("results/door", deadline_ms=800.0)
            agent.signal(signal.SIGKILL)
            agent.wait()
        for _ in range(3):
            with AgentProcess(tmp_path, bad) as agent:
                agent.wait_for_log("ready: door")
                agent.signal(signal.SIGKILL)
                agent.wait()
        with AgentProcess(tmp_path, bad) as agent:
            told = subscriber.wait_for("events/settings_rolled_back").body
            assert (told["check"], told["figures"]["starts"], told["file"]) == ("starts", 3, str(agent.config))
            report = subscriber.wait_for_body(REPORTED, lambda body: "file_given_up" in body).body
            assert report["file_given_up"]["check"] == "starts"
            assert report["values"]["streams"]["door"]["deadline_ms"] == 700.0
            assert "correct it, or try it again with a reload" in agent.log
            agent.terminate()
        with AgentProcess(tmp_path, bad) as agent:
            subscriber.wait_for_body(
                REPORTED, lambda body: body["boot"] != report["boot"] and "file_given_up" in body
            )
            agent.signal(signal.SIGHUP)
            told = subscriber.wait_for("events/settings_applied").body
            assert told["changes"]["streams.door.deadline_ms"] == [700.0, 800.0]
            subscriber.wait_for("results/door", deadline_ms=800.0)
            agent.terminate()
        check_all(subscriber.drain())


def test_a_start_on_a_file_that_is_on_trial_watches_it(tmp_path: Path) -> None:
    """Restarted by hand before it was proven: the broker that it names is not there, and the one before returns."""
    with Broker(tmp_path) as broker, Subscriber(broker.port) as subscriber:
        state = tmp_path / "state"
        good, bad = (
            settings_text(url=url, stream=STREAM, more=PROVING, state=state)
            for url in (broker.url, "mqtt://127.0.0.1:9")
        )
        with AgentProcess(tmp_path, good) as agent:
            subscriber.wait_for("results/door")
            agent.config.write_text(bad)
            agent.signal(signal.SIGHUP)
            assert subscriber.wait_for("events/settings_applied").body["restart"] == ["mqtt.url"]
            agent.terminate()
        with AgentProcess(tmp_path, bad) as agent:
            told = subscriber.wait_for("events/settings_rolled_back", 60).body
            assert (told["check"], told["file"]) == ("broker", str(agent.config))
            agent.terminate()
        subscriber.drain()
        with AgentProcess(tmp_path, bad) as agent:
            subscriber.wait_for("results/door")
            agent.terminate()
