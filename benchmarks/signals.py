"""Models of signals, as the agent runs them, on recordings of which the content is known.

scripts/bench_signals --watch FILE [--vad FILE --speech FILE...]

`--watch` is `seglearn/data/watch_dataset.npy` of the PyPI package seglearn 1.2.5: subjects 9 and 10, whom the network
has not seen. `--vad` is another network of silero-vad with the inputs of ours, such as its export in opset 18.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import re
import shutil
import statistics
import subprocess
import sys
import tempfile
import wave
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks import harness

WATCH_GRU = harness.ROOT / "config/models/watch-gru"
SILERO_VAD = harness.ROOT / "config/models/silero-vad"
HELD_OUT = (9, 10)
WARM_UP_WINDOWS = 4
"""Two seconds, as in scripts/train_har.py: nobody can tell an exercise from its first half second."""
NOISE_S, RATE_HZ = 2, 16_000
CHANNELS = ("ax", "ay", "az", "wx", "wy", "wz")


def main() -> int:
    """Print what each model makes of its recordings."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--watch", type=Path, help="seglearn's watch_dataset.npy")
    parser.add_argument("--vad", type=Path, help="another silero-vad .onnx")
    parser.add_argument("--speech", type=Path, nargs="*", default=[harness.ROOT / "config/demo/speech.wav"])
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        if args.watch is not None:
            _watch(args.watch, Path(folder))
        _speech("silero-vad, ours", SILERO_VAD, args.speech, Path(folder))
        if args.vad is not None:
            _speech(f"silero-vad, {args.vad.name}", _with_network(args.vad, Path(folder)), args.speech, Path(folder))
    return 0


def _watch(file: Path, folder: Path) -> None:
    """One stream a recording, all in one agent: the states of the streams stay apart."""
    # The package's own file, whose wheel scripts/train_har checks by its digest: a pickle is code.
    held: dict[str, Any] = np.load(file, allow_pickle=True).item()
    labels = (WATCH_GRU / "labels.txt").read_text().splitlines()
    truth, sources = {}, {}
    for number, (samples, exercise, subject) in enumerate(zip(held["X"], held["y"], held["subject"], strict=True)):
        if subject not in HELD_OUT:
            continue
        name = f"r{number}"
        truth[name] = labels[int(exercise)]
        sources[name] = folder / f"{name}.csv"
        rows = (f"{at / 50:.2f}," + ",".join(f"{v:.6g}" for v in row) for at, row in enumerate(samples))
        sources[name].write_text("\n".join([f"t,{','.join(CHANNELS)}", *rows]) + "\n")
    said = _results(WATCH_GRU, sources, '[streams.samples]\ntime_key = "t"\ntime_base = "own"', folder)
    right = total = recordings = 0
    for name, results in said.items():
        answers = [one["classes"][0]["label"] for one in results][WARM_UP_WINDOWS:]
        right += answers.count(truth[name])
        total += len(answers)
        recordings += Counter(answers).most_common(1)[0][0] == truth[name]
    harness.say(
        f"watch-gru, subjects 9 and 10: {right}/{total} half seconds ({right / total:.1%}), "
        f"{recordings}/{len(said)} recordings"
    )


def _speech(what: str, model: Path, recordings: list[Path], folder: Path) -> None:
    """Put each recording between two seconds of faint noise, and say what is heard in both."""
    sources = {f"s{number}": folder / f"s{number}.wav" for number in range(len(recordings))}
    for source, file in zip(sources.values(), recordings, strict=True):
        _between_noise(file, source)
    said = _results(model, sources, "", folder)
    for results, file in zip(said.values(), recordings, strict=True):
        scores = [one["classes"][0]["score"] for one in results]
        before = NOISE_S * RATE_HZ // 512
        speech = scores[before:-before]
        harness.say(
            f"{what}: {file.name}: mean probability of speech {statistics.mean(speech):.3f} in {len(speech)} "
            f"windows, {sum(score >= 0.5 for score in speech)} at 0.5 and above; "
            f"{statistics.mean(scores[:before]):.3f} in the noise before them"
        )


def _between_noise(file: Path, target: Path) -> None:
    with wave.open(str(file)) as given:
        if (given.getframerate(), given.getnchannels(), given.getsampwidth()) != (RATE_HZ, 1, 2):
            raise SystemExit(f"{file}: is no 16-bit mono sound at {RATE_HZ} Hz")
        sound = given.readframes(given.getnframes())
    noise = np.random.default_rng(0).standard_normal(NOISE_S * RATE_HZ) * 0.001 * 32768
    quiet = noise.round().astype("<i2").tobytes()
    with wave.open(str(target), "wb") as out:
        out.setnchannels(1)
        out.setsampwidth(2)
        out.setframerate(RATE_HZ)
        out.writeframes(quiet + sound + quiet)


def _with_network(network: Path, folder: Path) -> Path:
    """Return a copy of our model folder with another network; the golden sample stays and has to come out."""
    copy = Path(shutil.copytree(SILERO_VAD, folder / "vad"))
    shutil.copyfile(network, copy / "model.onnx")
    manifest = copy / "model.toml"
    digest = hashlib.sha256(network.read_bytes()).hexdigest()
    manifest.write_text(re.sub(r'sha256 = "\w+"', f'sha256 = "{digest}"', manifest.read_text()))
    return copy


def _results(model: Path, sources: dict[str, Path], more: str, folder: Path) -> dict[str, list[dict[str, Any]]]:
    """Run the agent on recordings, every window in order, and return each stream's results."""
    streams = "".join(
        f'[[streams]]\nname = "{name}"\nsource = {json.dumps(str(file))}\nmodel = "m"\nmode = "every_frame"\n{more}\n'
        for name, file in sources.items()
    )
    config = folder / "agent.toml"
    config.write_text(
        f'[device]\nid = "bench"\n[spool]\nmax_mb = 0\n[[models]]\nname = "m"\npath = {json.dumps(str(model))}\n'
        f"{streams}"
    )
    command = [sys.executable, "-m", "agent", "run", "--config", str(config), "--output", "stdout"]
    ended = subprocess.run(command, cwd=harness.ROOT, capture_output=True, text=True, check=False)
    if ended.returncode != 0:
        raise SystemExit(ended.stderr)
    found: dict[str, list[dict[str, Any]]] = {name: [] for name in sources}
    for line in ended.stdout.splitlines()[:-1]:
        result = json.loads(line)
        found[result["stream"]].append(result)
    return found


if __name__ == "__main__":
    sys.exit(main())
