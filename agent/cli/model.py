"""`edgebeat model`: verify a folder on this device, inspect, quantise or tune it, sign a release of it."""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

from agent.cli import exit_codes, model_push, model_quantize, model_release, model_tune
from agent.cli.arguments import count
from agent.cli.load import read_layers
from agent.cli.packages import need_packages
from agent.clock import SystemClock
from agent.engine.cpus import effective_cpus
from agent.engine.custom_ops import check_custom_ops
from agent.errors import ConfigError


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the command's arguments."""
    commands = parser.add_subparsers(dest="model_command", required=True, metavar="COMMAND")
    _add_verify(commands)
    _add_inspect(commands)
    model_quantize.add_arguments(commands)
    model_tune.add_arguments(commands)
    model_release.add_arguments(commands)
    model_push.add_arguments(commands)


def run(args: argparse.Namespace) -> int:
    """Run one of the model commands."""
    commands = {
        "verify": _verify,
        "inspect": _inspect,
        "quantize": model_quantize.quantize,
        "tune": model_tune.run,
        "keygen": model_release.keygen,
        "sign": model_release.sign,
        "serve": model_release.serve,
        "push": model_push.push,
    }
    return int(commands[args.model_command](args))


def _add_verify(commands: Any) -> None:
    verify = commands.add_parser("verify", help="manifest, digests, golden sample and every variant, on this device")
    verify.add_argument("folder", type=Path, metavar="FOLDER", help="a model folder")
    verify.add_argument("--threads", type=count, metavar="N", help="of one inference (default: all that are allowed)")
    verify.add_argument(
        "--config", type=Path, metavar="FILE", help="settings whose engine.custom_ops are loaded (default: none)"
    )
    verify.add_argument("--json", action="store_true", help="print JSON")


def _verify(args: argparse.Namespace) -> int:
    custom_ops = () if args.config is None else read_layers(args.config, {}).load().settings.engine.custom_ops
    check_custom_ops(custom_ops)
    from agent.modeltools.progress import bars
    from agent.modeltools.verify import verify

    with bars() as stage:
        verdict = verify(args.folder, effective_cpus(args.threads), SystemClock(), stage=stage, custom_ops=custom_ops)
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
    need_packages("inspect", "onnx")
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
