"""The entry: finds the command and is the only place that exits."""

from __future__ import annotations

import argparse
import contextlib
import gc
import importlib
import logging
import os
import sys
import threading
from types import ModuleType

from agent import __version__
from agent.cli import exit_codes
from agent.engine.process import prepare_process
from agent.errors import ConfigError

COMMANDS = {
    "run": "read frames, predict, publish: the agent itself",
    "check": "validate settings and say where each value came from",
    "demo": "a broker, the agent on a recorded clip, and its predictions, in one command",
    "simulate": "the scheduler over a recorded or made trace, to size a box or a policy",
    "model": "verify, inspect and quantise models",
    "settings": "show, set and stage the settings of devices, over the broker",
    "doctor": "what would hurt the agent on this device, and a bundle for whoever helps",
    "watch": "a live view of every device below a topic prefix",
}


def main(argv: list[str] | None = None) -> None:
    """Run one command and exit with its code."""
    prepare_process()
    code = run_command(sys.argv[1:] if argv is None else argv)
    if any(thread.daemon for thread in threading.enumerate()):
        _leave_at_once(code)
    sys.exit(code)


def _leave_at_once(code: int) -> None:
    """Exit beside a thread that was left behind in native code.

    When such a thread comes back while the interpreter ends, Python unwinds it by force, and C++ answers with abort:
    "terminate called without an active exception".
    """
    logging.shutdown()
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(OSError, ValueError):
            stream.flush()
    os._exit(code)


def parser_for(argv: list[str]) -> argparse.ArgumentParser:
    """Return the parser of a command line; of all commands only the one that it names is imported."""
    parser = argparse.ArgumentParser(prog="edgebeat", description="Edge inference with a bounded age.")
    parser.add_argument("--version", action="version", version=f"edgebeat {__version__}")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    named = argv[0] if argv and argv[0] in COMMANDS else None
    for name, summary in COMMANDS.items():
        command = commands.add_parser(name, help=summary, description=summary[0].upper() + summary[1:] + ".")
        if name == named:
            _import_command(name).add_arguments(command)
    return parser


def run_command(argv: list[str]) -> int:
    """Run one command and return its exit code."""
    args = parser_for(argv).parse_args(argv)
    try:
        code = int(importlib.import_module(f"agent.cli.{args.command}").run(args))
        if sys.stdout is not None:  # None where it was closed before the start.
            sys.stdout.flush()
    except BrokenPipeError:
        # The reader of standard output left, as `head` does; Python would complain once more as it flushes at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return exit_codes.FAILED
    except ConfigError as error:
        for problem in error.problems:
            print(f"edgebeat: {problem}", file=sys.stderr)
        return exit_codes.BAD_SETTINGS
    except KeyboardInterrupt:
        return exit_codes.FAILED
    return code


def _import_command(name: str) -> ModuleType:
    """Import a command with the collector off: nothing that an import makes is garbage, and looking costs 50 ms."""
    gc.disable()
    try:
        return importlib.import_module(f"agent.cli.{name}")
    finally:
        gc.freeze()
        gc.enable()


if __name__ == "__main__":
    main()
