"""`edgebeat demo`: a broker, the agent on a recorded clip, and a client that shows what arrives."""

from __future__ import annotations

import argparse
import contextlib
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

from agent.cli import exit_codes
from agent.cli.arguments import positive
from agent.cli.demo_report import Tally, failures, last_lines, read_summary, report_lines, shown
from agent.cli.places import shared_folder
from agent.cli.viewer import Viewer
from agent.cli.views import REFRESH_NS, View, view_for_output
from agent.clock import NEVER_NS, NS_PER_S, Clock, SystemClock
from agent.errors import ConfigError
from agent.settings import MqttSettings
from agent.sinks.embedded import EmbeddedBroker, free_ports

ROOT = shared_folder()
"""The demo's settings name their files from here."""
DEMO = ROOT / "config/demo"
PREFIX = "edgebeat/v1"
SUBSCRIBE_NS = 10 * NS_PER_S
"""On loopback it takes 10 ms."""
START_NS = 120 * NS_PER_S
"""For loading and checking the model on the slowest board that we would call a device."""
END_NS = 10 * NS_PER_S
"""An agent ends within 5 s of a signal; after this one it is killed."""
LAST_RESULTS_NS = 2 * NS_PER_S
"""What is still on its way when the agent has ended; its `offline` is the last word and ends the wait."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the command's arguments."""
    parser.add_argument("--seconds", type=positive, metavar="N", help="end by itself (default: Ctrl-C ends)")
    parser.add_argument("--port", type=_port, metavar="P", help="the broker's for MQTT 5 (default: one that is free)")
    what = parser.add_mutually_exclusive_group()
    what.add_argument("--sensor", action="store_true", help="a watch's recording instead of the clip")
    what.add_argument("--audio", action="store_true", help="a recorded reading instead of the clip")
    parser.add_argument("--out", type=Path, default=Path("out/demo"), metavar="DIR", help="default: %(default)s")


@dataclass(frozen=True)
class Show:
    """What a demo shows: its settings, its recording, and whether it leaves a picture."""

    config: Path
    recording: Path
    has_picture: bool = False


CLIP = Show(DEMO / "agent.toml", DEMO / "clip.mp4", has_picture=True)
SENSOR = Show(DEMO / "sensor.toml", DEMO / "watch.csv")
AUDIO = Show(DEMO / "audio.toml", DEMO / "speech.wav")


@dataclass(frozen=True)
class Outputs:
    """The files that a demo leaves behind; `picture` is None where there is nothing to be seen."""

    picture: Path | None
    log: Path
    summary: Path


class StopRequest:
    """Set by the first SIGINT, SIGTERM or SIGHUP; a second one is an impatient user's KeyboardInterrupt."""

    def __init__(self) -> None:
        self.is_made = False

    def note(self, *_: object) -> None:
        """Be called as a signal handler."""
        if self.is_made:
            raise KeyboardInterrupt
        self.is_made = True


def run(args: argparse.Namespace) -> int:
    """Show the demo and report; 0 only if predictions arrived, the ledger adds up and the picture is there."""
    show = SENSOR if args.sensor else AUDIO if args.audio else CLIP
    outputs = prepare_outputs(args.out, show)
    clock, tally = SystemClock(), Tally()
    # Everything that is started is ended on every way out, in the reverse order.
    with ExitStack() as stack:
        stop = stack.enter_context(_signals_noted())
        broker = start_broker(args.port)
        stack.callback(broker.stop)
        url = broker.url("5")
        _announce(broker, outputs, show)
        view = view_for_output(PREFIX, clock)
        stack.callback(view.close)
        settings = MqttSettings(url=url, topic_prefix=PREFIX)
        viewer = Viewer(
            settings,
            clock,
            on_message=lambda topic, payload: tally.add(view.message(topic, payload)),
            on_connection=view.connection,
        )
        stack.callback(viewer.close)
        if not _subscribe(viewer, clock):
            print(f"edgebeat: the broker at {url} does not answer.", file=sys.stderr)
            return exit_codes.FAILED
        agent = stack.enter_context(_agent(url, outputs, show, args.seconds))
        limit_ns = NEVER_NS if args.seconds is None else START_NS + int(args.seconds * NS_PER_S) + END_NS
        _follow(agent, viewer, view, stop, clock, limit_ns)
        _receive_the_rest(viewer, view, clock)
    return _report(agent.returncode, stop, tally, outputs)


def prepare_outputs(folder: Path, show: Show = CLIP) -> Outputs:
    """Make the folder and clear away the results of the last time.

    Raises:
        ConfigError: the folder cannot be made or written.
    """
    folder = folder.absolute()
    picture = folder / "clip.jpg" if show.has_picture else None
    outputs = Outputs(picture, folder / "agent.log", folder / "summary.json")
    if not show.config.is_file():
        raise ConfigError(
            f"demo: {show.config} is missing: install edgebeat into a virtual environment, or run from a checkout"
        )
    try:
        folder.mkdir(parents=True, exist_ok=True)
        if picture is not None:
            picture.unlink(missing_ok=True)
        outputs.log.write_bytes(b"")
        outputs.summary.write_bytes(b"")
    except OSError as error:
        raise ConfigError(
            f"--out {str(folder)!r}: the demo cannot write there: {error.strerror}; name a folder that is writable"
        ) from error
    return outputs


def start_broker(port: int | None) -> EmbeddedBroker:
    """Start the embedded broker on loopback.

    Raises:
        ConfigError: the extra is not installed, or the port that was asked for is taken.
    """
    free, spare = free_ports(2)
    port_v5 = port or free
    try:
        return EmbeddedBroker(port_v311=spare if spare != port_v5 else free, port_v5=port_v5)
    except ConfigError as error:
        if port is None or isinstance(error.__cause__, ImportError):
            raise
        raise ConfigError(f"--port {port}: the demo's broker cannot start there: {error.__cause__}") from error


def _announce(broker: EmbeddedBroker, outputs: Outputs, show: Show) -> None:
    url = broker.url("5")
    print(f"broker    {url} (MQTT 3.1.1: port {broker.url('3.1.1').rpartition(':')[2]})")
    print(f"agent     starts on {show.recording.relative_to(ROOT)}; log: {shown(outputs.log)}")
    print(f"watch it  {command_name()} watch --mqtt {url}")
    print("end it    Ctrl-C", flush=True)


def _subscribe(viewer: Viewer, clock: Clock) -> bool:
    """Listen before the agent starts, so that no result is missed."""
    by_ns = clock.now_ns() + SUBSCRIBE_NS
    while not viewer.is_subscribed and clock.now_ns() < by_ns:
        viewer.pump(REFRESH_NS)
    return viewer.is_subscribed


@contextlib.contextmanager
def _agent(url: str, outputs: Outputs, show: Show, seconds: float | None) -> Iterator[subprocess.Popen[bytes]]:
    """Run the agent as a child process with its own log; it has ended when the block has."""
    command = [sys.executable, "-m", "agent", "run", "--config", str(show.config), "--mqtt", url]
    if seconds is not None:
        command += ["--duration", str(seconds)]
    with outputs.log.open("wb") as log, outputs.summary.open("wb") as summary:
        # A file rather than a pipe for the summary: nothing has to be read for the agent to end.
        agent = subprocess.Popen(
            command, cwd=ROOT, env=_environment(outputs), stdin=subprocess.DEVNULL, stdout=summary, stderr=log
        )
        try:
            yield agent
        finally:
            _end(agent)


def _environment(outputs: Outputs) -> dict[str, str]:
    """Return the environment without the settings of the user's own agent: the demo's file says what it is."""
    kept_sections = ("EDGEBEAT_LOG__", "EDGEBEAT_LIMITS__")
    own = {k: v for k, v in os.environ.items() if not k.startswith("EDGEBEAT_") or k.startswith(kept_sections)}
    if outputs.picture is not None:
        own["EDGEBEAT_STREAMS__0__ANNOTATED_IMAGE"] = str(outputs.picture)
    return own


def _follow(
    agent: subprocess.Popen[bytes], viewer: Viewer, view: View, stop: StopRequest, clock: Clock, limit_ns: int
) -> None:
    """Show what arrives until the agent has ended; ask it to when the user or the limit says so."""
    ask_ns, kill_ns = clock.now_ns() + limit_ns, NEVER_NS
    while agent.poll() is None:
        viewer.pump(REFRESH_NS)
        view.refresh()
        now_ns = clock.now_ns()
        if kill_ns == NEVER_NS and (stop.is_made or now_ns >= ask_ns):
            agent.terminate()
            kill_ns = now_ns + END_NS
        elif now_ns >= kill_ns:
            agent.kill()


def _receive_the_rest(viewer: Viewer, view: View, clock: Clock) -> None:
    by_ns = clock.now_ns() + LAST_RESULTS_NS
    while clock.now_ns() < by_ns and any(device.is_online() for device in view.fleet.devices.values()):
        viewer.pump(REFRESH_NS)
    view.refresh()


def _end(agent: subprocess.Popen[bytes]) -> None:
    """End the agent whatever happened; at once when it is asked a second time."""
    if agent.poll() is not None:
        return
    agent.terminate()
    try:
        agent.wait(END_NS / NS_PER_S)
    except BaseException:
        agent.kill()
        agent.wait()
        raise


def _report(returncode: int, stop: StopRequest, tally: Tally, outputs: Outputs) -> int:
    """Print what came of it and return the demo's exit code."""
    if returncode != 0 and not stop.is_made:
        exit_code = returncode if returncode > 0 else 128 - returncode
        print(f"edgebeat: the agent ended with exit code {exit_code}. The end of its log:", file=sys.stderr)
        print(last_lines(outputs.log), file=sys.stderr)
        print(f"edgebeat: all of it is in {shown(outputs.log)}", file=sys.stderr)
        return exit_code
    summary = read_summary(outputs.summary)
    print()
    for line in report_lines(tally, summary, outputs.picture, outputs.log):
        print(line)
    failed = list(failures(tally, summary, outputs.picture))
    if returncode != 0:
        failed.insert(0, f"The agent ended with {returncode} instead of 0 when it was stopped.")
    if failed:
        for sentence in failed:
            print(f"edgebeat: {sentence}", file=sys.stderr)
        print(f"edgebeat: the agent's log, {shown(outputs.log)}, should say why.", file=sys.stderr)
        return exit_codes.FAILED
    name = command_name()
    print("next      your camera, results as lines (--mqtt URL instead: to a broker):")
    print(f"{name} run --model config/models/coco-ssd --source 0 --output stdout")
    print("          every device at that broker:")
    print(f"{name} watch --mqtt URL")
    return exit_codes.DONE


def command_name() -> str:
    """Return what the user types for this command here."""
    if shutil.which("edgebeat"):
        return "edgebeat"
    beside = Path(sys.executable).with_name("edgebeat")
    # Not resolved: the interpreter of a virtual environment is a link out of it.
    inside = beside.is_file() and beside.is_relative_to(Path.cwd())
    return str(beside.relative_to(Path.cwd())) if inside else f"{Path(sys.executable).name} -m agent"


@contextlib.contextmanager
def _signals_noted() -> Iterator[StopRequest]:
    """Let signals only leave a note: the loops look at it five times a second."""
    stop = StopRequest()
    numbers = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
    previous = {number: signal.signal(number, stop.note) for number in numbers}
    try:
        yield stop
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)


def _port(text: str) -> int:
    if not text.isdecimal() or not 0 < int(text) < 65536:
        raise argparse.ArgumentTypeError(f"{text!r} is not a port, 1 to 65535")
    return int(text)
