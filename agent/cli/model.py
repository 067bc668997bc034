"""`edgebeat model`: verify a folder on this device, inspect a network, quantise it."""

from __future__ import annotations

import argparse
import importlib.util
import json
from pathlib import Path
from typing import Any

from agent.cli import exit_codes
from agent.clock import SystemClock
from agent.engine.cpus import effective_cpus
from agent.errors import ConfigError


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the command's arguments."""
    commands = parser.add_subparsers(dest="model_command", required=True, metavar="COMMAND")
    _add_verify(commands)
    _add_inspect(commands)


def run(args: argparse.Namespace) -> int:
    """Run one of the model commands."""
    return int({"verify": _verify, "inspect": _inspect}[args.model_command](args))


def _add_verify(commands: Any) -> None:
    verify = commands.add_parser("verify", help="manifest, digests, golden sample and every variant, on this device")
    verify.add_argument("folder", type=Path, metavar="FOLDER", help="a model folder")
    verify.add_argument(
        "--threads", type=_count, metavar="N", help="of one inference (default: all that are allowed)"
    )
    verify.add_argument("--json", action="store_true", help="print JSON")


def _verify(args: argparse.Namespace) -> int:
    from agent.modeltools.verify import verify

    verdict = verify(args.folder, effective_cpus(args.threads), SystemClock())
    print(json.dumps(verdict.as_json()) if args.json else verdict.text())
    if verdict.problems:
        raise ConfigError(list(verdict.problems))
    return exit_codes.DONE


def _add_inspect(commands: Any) -> None:
    inspect = commands.add_parser("inspect", help="what an .onnx file is, and what model.toml would say of it")
    inspect.add_argument("file", type=Path, metavar="FILE", help="an .onnx file; nothing in it is run")
    inspect.add_argument("--write", action="store_true", help="write a first model.toml beside it (never overwrites)")
    inspect.add_argument("--json", action="store_true", help="print JSON")


def _inspect(args: argparse.Namespace) -> int:
    _need("inspect", "onnx")
    from agent.modeltools.inspect import inspect

    found = inspect(args.file)
    written = found.write() if args.write and not found.problems else []
    if args.json:
        print(json.dumps({**found.as_json(), "written": [str(file) for file in written]}))
    else:
        print("\n".join([found.text(), *(f"wrote {file}" for file in written)]))
    if found.problems:
        raise ConfigError(list(found.problems))
    return exit_codes.DONE


def _need(command: str, *packages: str) -> None:
    missing = [name for name in packages if importlib.util.find_spec(name) is None]
    if missing:
        raise ConfigError(
            f"edgebeat model {command} needs {' and '.join(missing)}, which a device does not: "
            "pip install 'edgebeat[tools]'"
        )


def _count(text: str) -> int:
    value = int(text)
    if not 1 <= value <= 1024:
        raise argparse.ArgumentTypeError(f"{text} is not from 1 to 1024")
    return value
