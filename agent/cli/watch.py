"""`edgebeat watch`: every device below a topic prefix, live on a terminal, as lines or as JSON elsewhere."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from agent.cli import exit_codes
from agent.cli.arguments import positive
from agent.cli.pictures import Pictures
from agent.cli.terminal_pictures import PROTOCOLS, terminal_painter
from agent.cli.viewer import Viewer
from agent.cli.views import REFRESH_NS, LineView, View, quiet_when_the_reader_leaves, view_for_output
from agent.clock import NEVER_NS, NS_PER_S, Clock, SystemClock
from agent.errors import ConfigError
from agent.settings import MqttSettings

KEEPALIVE_S = 10
"""A viewer sends nothing but pings: a broker that is gone shows within 20 s."""

OPTIONS = {"url": "--mqtt", "topic_prefix": "--prefix", "protocol": "--protocol"}


def add_broker_arguments(parser: argparse.ArgumentParser) -> None:
    """Add what names the broker and who connects; `broker_settings` reads it."""
    parser.add_argument(
        "--mqtt", default="mqtt://127.0.0.1:1883", metavar="URL", help="broker (default: %(default)s)"
    )
    parser.add_argument("--prefix", default="edgebeat/v1", help="topic prefix (default: %(default)s)")
    parser.add_argument("--protocol", choices=["5", "3.1.1"], default="5", help="MQTT version (default: %(default)s)")
    parser.add_argument("--username", help="user name at the broker")
    parser.add_argument("--password-file", type=Path, metavar="FILE", help="its first line is the password")
    parser.add_argument("--ca-file", type=Path, metavar="FILE", help="PEM authority for mqtts:// and wss://")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the command's arguments."""
    add_broker_arguments(parser)
    parser.add_argument("--duration", type=positive, metavar="S", help="end by itself after so many seconds")
    parser.add_argument("--json", action="store_true", help="one JSON object a message: topic and payload")
    parser.add_argument(
        "--images", type=Path, metavar="DIR", help="ask for pictures of the streams, and keep the newest of each here"
    )
    parser.add_argument(
        "--show",
        nargs="?",
        const="auto",
        choices=PROTOCOLS,
        help="ask for pictures and show them here, the way that this terminal says it can, or the one named",
    )


def run(args: argparse.Namespace) -> int:
    """Show what comes until Ctrl-C or the end of the duration; 1 if the broker was never reached."""
    settings = broker_settings(args)
    painter = _painter(args)
    clock = SystemClock()
    with quiet_when_the_reader_leaves():
        # A table is painted over in place, and a picture with it.
        view = LineView(args.prefix, clock) if args.show else view_for_output(args.prefix, clock, as_json=args.json)
        pictures = None
        if args.images is not None or painter is not None:
            pictures = Pictures(args.prefix, folder=args.images, show=painter, clock=clock)
        return watch(settings, view, clock, args.duration, pictures)
    return exit_codes.DONE


def watch(
    settings: MqttSettings, view: View, clock: Clock, duration_s: float | None, pictures: Pictures | None = None
) -> int:
    """Connect and show; return the exit code."""

    def see(topic: str, payload: bytes) -> None:
        view.message(topic, payload)
        if pictures is not None:
            pictures.message(topic, payload)

    viewer = Viewer(settings, clock, on_message=see, on_connection=view.connection)
    end_ns = NEVER_NS if duration_s is None else clock.now_ns() + int(duration_s * NS_PER_S)
    try:
        while (left_ns := end_ns - clock.now_ns()) > 0:
            viewer.pump(min(REFRESH_NS, left_ns))
            view.refresh()
            if pictures is not None:
                pictures.refresh()
                _send(viewer, pictures)
    except KeyboardInterrupt:
        return exit_codes.DONE
    finally:
        if pictures is not None:
            pictures.close()
            _send(viewer, pictures)
        viewer.close()
        view.close()
        if viewer.missed:
            print(f"edgebeat: {viewer.missed} messages came faster than they could be shown", file=sys.stderr)
    return exit_codes.DONE if viewer.has_been_subscribed else exit_codes.FAILED


def _send(viewer: Viewer, pictures: Pictures) -> None:
    for topic, payload in pictures.requests:
        viewer.publish(topic, payload, asked_by="edgebeat watch", retain=False)
    pictures.requests.clear()


def _painter(args: argparse.Namespace) -> Callable[[bytes], None] | None:
    """Return what shows pictures where that was asked for.

    Raises:
        ConfigError: the terminal cannot, as far as it says, or there is no folder for the files.
    """
    if args.images is not None and not args.images.is_dir():
        raise ConfigError(f"--images {str(args.images)!r}: is no folder: make it first")
    if not args.show:
        return None
    if args.json:
        raise ConfigError("--show and --json exclude each other: JSON is for programs")
    painter = terminal_painter(os.environ, sys.stdout, args.show)
    if painter is None:
        raise ConfigError(
            "--show: this terminal does not say that it shows pictures: name a way (--show sixel) or use --images DIR"
        )
    return painter


def broker_settings(args: argparse.Namespace) -> MqttSettings:
    """Return the connection that the command line describes, checked as the agent's own is.

    Raises:
        ConfigError: with every problem, each naming its option.
    """
    problems = []
    if args.mqtt == "embedded":
        problems.append("--mqtt 'embedded': give the URL of a broker that runs; `edgebeat demo` shows its own")
    for option, file in (("--password-file", args.password_file), ("--ca-file", args.ca_file)):
        if file is not None and not file.is_file():
            problems.append(f"{option} {str(file)!r}: is no file")
    values: dict[str, Any] = {
        "url": args.mqtt,
        "topic_prefix": args.prefix,
        "protocol": args.protocol,
        "username": args.username,
        "password_file": args.password_file,
        "ca_file": args.ca_file,
        "keepalive_s": KEEPALIVE_S,
    }
    try:
        settings = MqttSettings(**values)
    except ValidationError as error:
        problems += [
            f"{OPTIONS.get(str(entry['loc'][0]), '--mqtt')} {entry['input']!r}: {entry['msg']}"
            for entry in error.errors()
        ]
    if problems:
        raise ConfigError(problems)
    return settings
