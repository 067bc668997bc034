"""`edgebeat model`: verify a folder on this device, inspect, quantise or tune it, sign a release of it."""

from __future__ import annotations

import argparse
import importlib.util
import json
import sys
from pathlib import Path
from typing import Any

from agent.cli import exit_codes, model_push, model_release, model_tune
from agent.cli.arguments import count, positive
from agent.clock import SystemClock
from agent.engine.cpus import effective_cpus
from agent.errors import ConfigError


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the command's arguments."""
    commands = parser.add_subparsers(dest="model_command", required=True, metavar="COMMAND")
    _add_verify(commands)
    _add_inspect(commands)
    _add_quantize(commands)
    model_tune.add_arguments(commands)
    model_release.add_arguments(commands)
    model_push.add_arguments(commands)


def run(args: argparse.Namespace) -> int:
    """Run one of the model commands."""
    commands = {
        "verify": _verify,
        "inspect": _inspect,
        "quantize": _quantize,
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


def _add_quantize(commands: Any) -> None:
    quantize = commands.add_parser("quantize", help="int8 from fp32, kept only when it is as good")
    quantize.add_argument("path", type=Path, metavar="FILE_OR_FOLDER", help="a float model; its model.toml is used")
    quantize.add_argument(
        "--calibrate", type=Path, required=True, metavar="DIR|CLIP", help="pictures like the real ones"
    )
    quantize.add_argument(
        "--held-out", type=Path, metavar="DIR|CLIP", help="pictures to judge with (default: half of --calibrate)"
    )
    quantize.add_argument(
        "--preset", choices=("auto", "avx2", "vnni", "arm"), default="auto", help="default: this CPU's"
    )
    quantize.add_argument("--output", type=Path, metavar="FOLDER", help="a new folder (default: NAME-int8 beside it)")
    quantize.add_argument(
        "--pictures-max", type=_pictures, default=200, metavar="N", help="in both sets (default 200)"
    )
    bounds = quantize.add_argument_group("bounds: int8 is kept when all of them hold")
    bounds.add_argument(
        "--accuracy-min",
        type=_share,
        metavar="X",
        help="default: 0.95 F1 at IoU 0.5 (detection), 0.98 top-1 (classification), 0.99 cosine (raw)",
    )
    bounds.add_argument(
        "--kernels-min",
        type=_share,
        default=0.97,
        metavar="X",
        help="cosine of int8 on this CPU with the same network in float arithmetic (default 0.97)",
    )
    bounds.add_argument("--size-max", type=positive, default=0.6, metavar="X", help="of fp32's bytes (default 0.6)")
    bounds.add_argument(
        "--latency-max",
        type=positive,
        default=1.5,
        metavar="X",
        help="of fp32's median time, where the preset is this CPU's (default 1.5)",
    )
    quantize.add_argument("--json", action="store_true", help="print JSON")


def _quantize(args: argparse.Namespace) -> int:
    _need("quantize", "onnx", "rich")
    from agent.modeltools.progress import bars
    from agent.modeltools.qdq import PRESETS
    from agent.modeltools.quantize import Task, quantize

    task = Task(
        path=args.path,
        calibrate=args.calibrate,
        held_out=args.held_out,
        preset=PRESETS.get(args.preset),
        output=args.output,
        pictures_max=args.pictures_max,
        accuracy_min=args.accuracy_min,
        kernels_min=args.kernels_min,
        size_max=args.size_max,
        latency_max=args.latency_max,
    )
    try:
        with bars() as stage:
            report = quantize(task, SystemClock(), stage)
    except OSError as error:
        print(f"edgebeat: {error.filename or args.path}: {error.strerror}: nothing was written", file=sys.stderr)
        return exit_codes.FAILED
    print(json.dumps(report.as_json()) if args.json else report.text())
    return exit_codes.FAILED if report.failed else exit_codes.DONE


def _need(command: str, *packages: str) -> None:
    missing = [name for name in packages if importlib.util.find_spec(name) is None]
    if missing:
        raise ConfigError(
            f"edgebeat model {command} needs {' and '.join(missing)}, which a device does not: "
            "pip install 'edgebeat[tools]'"
        )


def _pictures(text: str) -> int:
    value = int(text)
    if not 4 <= value <= 10_000:
        raise argparse.ArgumentTypeError(f"{text} is not from 4 to 10000: two sets of at least two")
    return value


def _share(text: str) -> float:
    value = float(text)
    if not 0 <= value <= 1:
        raise argparse.ArgumentTypeError(f"{text} is not from 0 to 1")
    return value
