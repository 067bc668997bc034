"""`edgebeat run`: the agent itself, from a settings file or for one model and one source."""

from __future__ import annotations

import argparse
import json
import logging
import os
import re
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from agent.cli.arguments import positive
from agent.cli.load import read_layers
from agent.cli.logs import set_up_logging
from agent.clock import SystemClock
from agent.daemon import Daemon
from agent.desired.start import begin, resume
from agent.errors import ConfigError
from agent.handover import Handover, receive, restart
from agent.layers import Layers
from agent.warming import warm_models

log = logging.getLogger(__name__)

ONE_OFF_STREAM = "stream"


def add_settings_arguments(parser: argparse.ArgumentParser) -> None:
    """Add what `run` and `check` share."""
    parser.add_argument("--config", type=Path, metavar="FILE", help="settings file (default: $EDGEBEAT_CONFIG)")
    parser.add_argument("--model", metavar="PATH", help="model folder or .onnx file, for a run without a file")
    parser.add_argument("--source", metavar="SOURCE", help="camera, URL or video file, for a run without a file")
    parser.add_argument("--mqtt", metavar="URL", help="broker, such as mqtt://127.0.0.1:1883, or 'embedded'")
    parser.add_argument("--mode", choices=["live", "every_frame"], help="for --source; default: see --output")
    parser.add_argument("--deadline-ms", type=float, metavar="MS", help="for --source")
    parser.add_argument("--annotate", metavar="FILE", help="for --source: keep a JPEG of the last prediction here")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the command's arguments."""
    add_settings_arguments(parser)
    parser.add_argument("--duration", type=positive, metavar="S", help="end by itself after so many seconds")
    parser.add_argument(
        "--record-trace", type=Path, metavar="FILE", help="write arrivals and service times, for edgebeat simulate"
    )
    parser.add_argument(
        "--output",
        choices=["mqtt", "stdout"],
        default="mqtt",
        help="stdout: one JSON result a line; --source is then read in every_frame mode unless it is live by nature",
    )


def run(args: argparse.Namespace) -> int:
    """Run the agent and print its summary as the last line of standard output."""
    before = receive()
    is_service = not _has_terminal()
    if is_service:
        # A reload that comes while models load, or between two runs in place, must not end the agent.
        signal.signal(signal.SIGHUP, signal.SIG_IGN)
    if before is None:
        layers = read_layers(config_file(args), overrides(args, output=args.output))
    else:
        layers = Layers.imported(before.layers)
    own = layers.load().settings
    set_up_logging(own.log.level, own.log.format)
    daemon = _build_daemon(args, layers, before)
    with _signals_to(daemon, reloads=is_service):
        exit_code = daemon.run(args.duration)
        summary = json.dumps(daemon.summary(), separators=(",", ":"))
        if (handover := daemon.handover()) is not None:
            log.info("summary before the restart: %s", summary)
            restart(handover)
        try:
            print(summary, flush=True)
        except BrokenPipeError:
            # The reader left; Python would complain once more when it flushes at exit.
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    return exit_code


def _build_daemon(args: argparse.Namespace, layers: Layers, before: Handover | None) -> Daemon:
    """Return an agent on the newest settings that it can start on.

    Raises:
        ConfigError: it cannot start on the settings of the device itself.
    """
    clock = SystemClock()
    if before is None:
        start = begin(layers, clock)
    else:
        good = None if before.layers_before is None else Layers.imported(before.layers_before)
        start = resume(layers, clock, good=good, given_up=tuple(before.given_up))
    while True:
        settings = start.loaded.settings
        logging.getLogger().setLevel(settings.log.level.upper())
        try:
            warm = warm_models(settings, clock, before=before)
            return Daemon(
                settings,
                warm,
                output=args.output,
                clock=clock,
                trace=args.record_trace,
                before=before,
                start=start,
                reread=lambda: read_layers(config_file(args), overrides(args, output=args.output)),
            )
        except ConfigError as error:
            if start.good is not None:
                start = start.without_file(error.problems)
            elif start.record.current is not None:
                start = start.without_current(error.problems)
            elif start.written is not None:
                start = start.as_written(error.problems)
            else:
                raise


def config_file(args: argparse.Namespace) -> Path | None:
    """Return the settings file that the command line or the environment names."""
    if args.config is not None:
        return Path(args.config)
    named = os.environ.get("EDGEBEAT_CONFIG")
    return Path(named) if named else None


def overrides(args: argparse.Namespace, *, output: str = "mqtt") -> dict[str, Any]:
    """Return the settings that the command line gives."""
    values: dict[str, Any] = {}
    if args.mqtt is not None:
        values["mqtt"] = {"url": args.mqtt}
    if (args.model is None) != (args.source is None):
        raise ConfigError("--model and --source go together: give both, or a --config file")
    if args.model is None:
        for name in ("mode", "deadline_ms", "annotate"):
            if getattr(args, name) is not None:
                raise ConfigError(
                    f"--{name.replace('_', '-')} needs --model and --source; in a file it has its own key"
                )
        if config_file(args) is None:
            raise ConfigError("nothing to run: give --config FILE, or --model and --source")
        return values
    # Nothing of what was written once is lost for being read slowly.
    is_file = (Path(args.source).exists() and not args.source.startswith("/dev/")) or args.source == "-"
    folder = Path(args.model).resolve()
    model = re.sub(r"[^A-Za-z0-9_.-]", "-", folder.stem if folder.suffix == ".onnx" else folder.name)[:64] or "model"
    stream = {
        "name": ONE_OFF_STREAM,
        "model": model,
        "source": args.source,
        "mode": args.mode or ("every_frame" if output == "stdout" and is_file else "live"),
        **({"deadline_ms": args.deadline_ms} if args.deadline_ms is not None else {}),
        **({"annotated_image": args.annotate} if args.annotate is not None else {}),
    }
    return {**values, "models": [{"name": model, "path": args.model}], "streams": [stream]}


def _has_terminal() -> bool:
    """Return whether somebody sits before it, whose leaving (SIGHUP) ends it."""
    try:
        return os.isatty(0)
    except OSError:
        return False


@contextmanager
def _signals_to(daemon: Daemon, *, reloads: bool) -> Iterator[None]:
    """Turn SIGTERM and SIGINT into a stop in order; the handlers only put one word into a queue.

    SIGHUP is a service's reload; at a terminal it means that the terminal went away.
    """
    previous = {
        number: signal.signal(number, lambda number, _: daemon.request_stop(signal.Signals(number).name))
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)
    }
    if reloads:
        signal.signal(signal.SIGHUP, lambda *_: daemon.request_reload())
    try:
        with daemon.wake.ended_by_signals():
            yield
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)
