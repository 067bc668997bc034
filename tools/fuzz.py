"""A long fuzz run over every parser of bytes that strangers may send, with atheris, which follows coverage.

scripts/fuzz [--seconds N] [--target NAME]

Each target runs in a process of its own for its time. What breaks it is left in `out/fuzz/found`; the exit code is 1.
The tests have the same parsers under hypothesis, for seconds; this is for nights.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import logging
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
FOUND = ROOT / "out/fuzz"
BYTES_MAX = 8192
"""Of an input: what a parser does with a longer one is what its limit says, which tests know."""
RUNS = re.compile(rb"^(?:Done |#)(\d+)", re.MULTILINE)


def _settings() -> Callable[[bytes], None]:
    from agent.core.desired import InvalidDocumentError, parse_desired
    from agent.desired.values import effective, load_document
    from agent.layers import Layers, Leaf

    values: dict[tuple[str | int, ...], Any] = {
        ("models", 0, "name"): "seen",
        ("models", 0, "path"): "m",
        ("streams", 0, "name"): "door",
        ("streams", 0, "source"): "0",
        ("streams", 0, "model"): "seen",
    }
    layers = Layers(tuple(Leaf(path, value, "agent.toml") for path, value in values.items()))

    def take(data: bytes) -> None:
        with contextlib.suppress(InvalidDocumentError):
            loaded = load_document(layers, parse_desired(data))
            json.dumps(effective(loaded.settings), allow_nan=False)

    return take


def _manifest() -> Callable[[bytes], None]:
    from agent.core.release import ReleaseRefusedError, parse_release
    from agent.updates.signature import read_envelope

    def take(data: bytes) -> None:
        with contextlib.suppress(ReleaseRefusedError):
            read_envelope(data)
        with contextlib.suppress(ReleaseRefusedError):
            parse_release(data)

    return take


def _command() -> Callable[[bytes], None]:
    from agent.core.commands import Address, CommandError, answer_to, read_address, read_request
    from agent.interfaces import Received

    def take(data: bytes) -> None:
        topic, _, payload = data.partition(b"\n")
        message = Received("commands/ping", payload, response_topic=topic.decode(errors="replace"), correlation=topic)
        address = Address()
        with contextlib.suppress(CommandError):
            address = read_address(message, "edgebeat/v1/porch")
        with contextlib.suppress(CommandError):
            read_request(message, address)
        answer_to(message, address)

    return take


def _samples() -> Callable[[bytes], None]:
    from agent.core.samples import CsvCodec, JsonCodec, RawCodec
    from agent.errors import PermanentError

    channels = ("x", "y")

    def take(data: bytes) -> None:
        for codec in (
            JsonCodec(channels, time_key="t"),
            CsvCodec(channels, time_key="t"),
            RawCodec("int16", 2),
            RawCodec("float32", 2),
        ):
            with contextlib.suppress(PermanentError):
                codec.parse(data)

    return take


def _picture() -> Callable[[bytes], None]:
    from agent.errors import PermanentError
    from agent.sources.pictures import decode_picture

    def take(data: bytes) -> None:
        with contextlib.suppress(PermanentError):
            decode_picture(data)

    return take


def _cbor() -> Callable[[bytes], None]:
    from agent.core.cbor import decode

    def take(data: bytes) -> None:
        with contextlib.suppress(ValueError):
            json.dumps(decode(data))

    return take


def _operator() -> Callable[[bytes], None]:
    from agent.cli.payloads import UnreadableError, parse_event, parse_health, parse_result, parse_status
    from agent.cli.reports import parse_desired_version, parse_report, problems

    def take(data: bytes) -> None:
        for parse in (parse_event, parse_health, parse_result, parse_status):
            with contextlib.suppress(UnreadableError):
                parse(data)
        parse_desired_version(data)
        with contextlib.suppress(UnreadableError):
            problems(parse_report(data))

    return take


def _state() -> Callable[[bytes], None]:
    import tempfile

    from agent.desired.accepted import FILE as ACCEPTED
    from agent.desired.accepted import AcceptedStore
    from agent.desired.file_trial import FILE as TRIAL
    from agent.desired.file_trial import FileTrials
    from agent.journal import CommandJournal
    from agent.layers import Layers
    from agent.updates.store import FILE as UPDATES
    from agent.updates.store import ReleaseStore

    folder = Path(tempfile.mkdtemp(prefix="edgebeat-fuzz-"))
    (folder / "updates").mkdir()

    def take(data: bytes) -> None:
        for file in (folder / ACCEPTED, folder / TRIAL, folder / "updates" / UPDATES, folder / "commands.jsonl"):
            file.write_bytes(data)
        AcceptedStore(folder, may_make=False).load()
        FileTrials(folder).load(Layers())
        ReleaseStore(folder).load()
        CommandJournal(folder, may_make=False).read()

    return take


TARGETS: dict[str, Callable[[], Callable[[bytes], None]]] = {
    "settings": _settings,
    "manifest": _manifest,
    "command": _command,
    "samples": _samples,
    "picture": _picture,
    "cbor": _cbor,
    "operator": _operator,
    "state": _state,
}

SEEDS: dict[str, list[bytes]] = {
    "settings": [b'{"schema":1,"version":4,"values":{"streams":{"door":{"max_fps":5,"source":"rtsp://a:b@c"}}}}'],
    "manifest": [
        b'{"payload":"e30=","keyid":"ours","sig":"AAAA"}',
        b'{"schema":1,"name":"m","seq":1,"version":"1","files":[{"path":"model.toml","url":"https://h/m","size":1,'
        b'"sha256":"' + b"0" * 64 + b'"}]}',
    ],
    "command": [b'edgebeat/v1/porch/responses/desk\n{"id":"1","reply":"desk","stream":"door"}'],
    "samples": [b'{"x":[1,2],"y":[3,4],"t":5}', b"x,y,t\n", b"1,2,3"],
    "picture": [b"\x89PNG\r\n\x1a\n\x00\x00\x00\rIHDR\x00\x00\x00\x02\x00\x00\x00\x02\x08\x02\x00\x00\x00", b"BM"],
    "cbor": [bytes.fromhex("a26161f97e0061628301f5f6"), bytes.fromhex("d8554400000000")],
    "operator": [b'{"state":"rolled_back","version":1,"seen_version":2,"errors":{},"rolled_back":{"version":2}}'],
    "state": [
        b'{"format":1,"current":null,"good":null,"given_up":null}',
        b'{"format":1,"models":{}}',
        b'{"format":1,"file":"command line","digest":"","good":[[["log","level"],"info","x"]],"starts":0,"check":"",'
        b'"figures":{}}',
    ],
}


def main() -> int:
    """Run every target for its time, one after the other; with `--child`, one of them under atheris."""
    parser = argparse.ArgumentParser(description="Fuzz the parsers of untrusted bytes with atheris.")
    parser.add_argument("--seconds", type=int, default=600, help="for each target (default: %(default)s)")
    parser.add_argument("--target", choices=sorted(TARGETS), help="this one alone")
    parser.add_argument("--child", action="store_true", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.child:
        _fuzz(args.target, args.seconds)
    failed = [name for name in ([args.target] if args.target else TARGETS) if not _run(name, args.seconds)]
    return 1 if failed else 0


def _run(name: str, seconds: int) -> bool:
    """Fuzz one target in a process of its own; print how much it did, and return whether nothing was found."""
    command = [sys.executable, "-m", "tools.fuzz", "--child", "--target", name, "--seconds", str(seconds)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, check=False)
    runs = max((int(found) for found in RUNS.findall(done.stderr)), default=0)
    print(f"{name:<10} {runs:>12,} inputs in {seconds} s: {'nothing found' if not done.returncode else 'FOUND'}")
    sys.stdout.flush()
    if done.returncode:
        print(done.stderr.decode(errors="replace")[-3000:])
    return done.returncode == 0


def _fuzz(name: str, seconds: int) -> None:
    """Feed one target until its time is over; atheris ends the process."""
    import atheris  # type: ignore[import-not-found]

    logging.disable(logging.CRITICAL)
    with atheris.instrument_imports(include=["agent"]):
        take = TARGETS[name]()
    corpus, found = FOUND / "corpus" / name, FOUND / "found"
    corpus.mkdir(parents=True, exist_ok=True)
    found.mkdir(parents=True, exist_ok=True)
    for number, seed in enumerate(SEEDS[name]):
        (corpus / f"seed-{number}").write_bytes(seed)
    limits = [f"-max_total_time={seconds}", f"-max_len={BYTES_MAX}", "-timeout=10", "-rss_limit_mb=1500"]
    atheris.Setup(["fuzz", str(corpus), *limits, f"-artifact_prefix={found}/{name}-"], take)
    atheris.Fuzz()


if __name__ == "__main__":
    sys.exit(main())
