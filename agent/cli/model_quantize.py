"""`edgebeat model quantize`: int8 from fp32, kept only when it is as good."""

from __future__ import annotations

import argparse
import json
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from agent.cli import exit_codes
from agent.cli.arguments import add_tool, positive
from agent.cli.packages import need_packages
from agent.cli.plots import check_plot
from agent.clock import SystemClock


def add_arguments(commands: Any) -> None:
    """Add the command's arguments."""
    quantize = add_tool(
        commands,
        "quantize",
        "int8 from fp32, kept only when it is as good",
        path="a float model; its model.toml is used",
        plot="each layer's error, .png or .svg (implies --per-layer)",
    )
    quantize.add_argument(
        "--calibrate",
        type=Path,
        required=True,
        metavar="DIR|CLIP",
        help="pictures or recordings (WAV, CSV) like the real ones",
    )
    quantize.add_argument(
        "--held-out", type=Path, metavar="DIR|CLIP", help="others to judge with (default: half of --calibrate)"
    )
    quantize.add_argument(
        "--method",
        choices=("auto", "static", "dynamic"),
        default="auto",
        help="auto: dynamic for networks that remember (GRU, LSTM, [state]), static for all others",
    )
    quantize.add_argument(
        "--preset", choices=("auto", "avx2", "vnni", "arm"), default="auto", help="default: this CPU's"
    )
    quantize.add_argument(
        "--keep-float",
        type=_layers,
        default=8,
        metavar="N",
        help="layers at most that stay in float when the accuracy asks for it: 1, 2, 4, ... (default 8; 0: none)",
    )
    quantize.add_argument("--per-layer", action="store_true", help="report the error of each layer")
    quantize.add_argument("--output", type=Path, metavar="FOLDER", help="a new folder (default: NAME-int8 beside it)")
    quantize.add_argument(
        "--pictures-max", type=_pictures, default=200, metavar="N", help="in both sets (default 200)"
    )
    bounds = quantize.add_argument_group("bounds: int8 is kept when all of them hold")
    bounds.add_argument(
        "--accuracy-min",
        type=_share,
        metavar="X",
        help="default: 0.95 F1 at IoU 0.5 (detection), 0.98 top-1 (classification), 0.95 mean IoU (segmentation), "
        "0.99 cosine (others)",
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


def quantize(args: argparse.Namespace) -> int:
    """Quantise, report and draw; 0 when int8 was written, 1 when fp32 stays."""
    need_packages("quantize", "onnx", "rich")
    check_plot(args.plot)
    from agent.modeltools.presets import PRESETS
    from agent.modeltools.progress import bars
    from agent.modeltools.quantize import quantize as run
    from agent.modeltools.task import Task

    task = Task(
        path=args.path,
        calibrate=args.calibrate,
        held_out=args.held_out,
        method=args.method,
        preset=PRESETS.get(args.preset),
        output=args.output,
        pictures_max=args.pictures_max,
        keep_float_max=args.keep_float,
        is_per_layer=args.per_layer or args.plot is not None,
        accuracy_min=args.accuracy_min,
        kernels_min=args.kernels_min,
        size_max=args.size_max,
        latency_max=args.latency_max,
    )
    try:
        with ends_on_sigterm(), bars() as stage:
            report = run(task, SystemClock(), stage)
    except OSError as error:
        print(f"edgebeat: {_place_of(error, task.target)}: {error.strerror}: nothing was written", file=sys.stderr)
        return exit_codes.FAILED
    except SystemExit as ended:
        # Returned, so that the entry leaves beside a thread in native code, which would abort at the end.
        return int(str(ended.code))
    text = "\n".join([report.text(), *([report.layers_text()] if report.layers else [])])
    print(json.dumps(report.as_json()) if args.json else text)
    if args.plot is not None:
        from agent.cli.model_quantize_plot import draw

        draw(report, args.plot)
        print(f"plot: {args.plot}", file=sys.stderr)
    return exit_codes.FAILED if report.failed else exit_codes.DONE


@contextmanager
def ends_on_sigterm() -> Iterator[None]:
    """Let SIGTERM end the body as Ctrl-C does, so that what it began is taken away. The main thread."""

    def end(number: int, _frame: object) -> None:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)  # Another one must not stop the clearing away.
        raise SystemExit(128 + number)

    before = signal.signal(signal.SIGTERM, end)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def _place_of(error: OSError, target: Path) -> str:
    """Return what was full: a file that is gone by now, or that the error does not name, is that of the output."""
    return str(target) if not error.filename or f".{target.name}." in str(error.filename) else str(error.filename)


def _pictures(text: str) -> int:
    value = int(text)
    if not 4 <= value <= 10_000:
        raise argparse.ArgumentTypeError(f"{text} is not from 4 to 10000: two sets of at least two")
    return value


def _layers(text: str) -> int:
    value = int(text)
    if not 0 <= value <= 1000:
        raise argparse.ArgumentTypeError(f"{text} is not from 0 to 1000")
    return value


def _share(text: str) -> float:
    value = float(text)
    if not 0 <= value <= 1:
        raise argparse.ArgumentTypeError(f"{text} is not from 0 to 1")
    return value
