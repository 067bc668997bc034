"""Trains the GRU of the sensor demo on watch recordings: seven exercises of the shoulder, six axes at 50 Hz.

Run by scripts/train_har with PyTorch, apart from the agent's own environment.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import shutil
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime as ort
import torch
from numpy.typing import NDArray
from torch import nn

CHUNK = 25
"""Samples that the network takes at a time: half a second."""
HIDDEN = 48
CHUNKS = 16
"""Of a training sequence: eight seconds."""
STEPS, BATCH = 500, 32
WARM_UP_CHUNKS = 4
"""Two seconds after a reset do not count: nobody can tell an exercise from its first half second."""
SUBJECTS_HELD_OUT = ((1, 2), (3, 4), (5, 6), (7, 8), (9, 10))
"""Each pair is measured by a network that has not seen it; the one that is kept has not seen the last."""
LABELS = {
    "PEN": "pendulum",
    "ABD": "abduction",
    "FEL": "forward elevation",
    "IR": "internal rotation",
    "ER": "external rotation",
    "TRAP": "trapezius extension",
    "ROW": "upright row",
}
CHANNELS = ("ax", "ay", "az", "wx", "wy", "wz")
RECORDING_S = 8

Floats = NDArray[np.float32]


class Network(nn.Module):  # type: ignore[misc]  # Without PyTorch it is Any.
    """Two convolutions over each chunk and a GRU over the chunks."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv1d(6, 24, 5, stride=2, padding=2)
        self.second = nn.Conv1d(24, 32, 5, stride=2, padding=2)
        self.memory = nn.GRU(32 * 7, HIDDEN, batch_first=True)
        self.out = nn.Linear(HIDDEN, len(LABELS))
        self.dropout = nn.Dropout(0.3)

    def forward(self, x: torch.Tensor, h: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Return logits [batch, chunks, classes] and the state, for x [batch, chunks, 25, 6]."""
        batch, chunks = x.shape[:2]
        z = torch.relu(self.first(x.reshape(batch * chunks, CHUNK, 6).transpose(1, 2)))
        z = torch.relu(self.second(z)).flatten(1)
        z, h = self.memory(self.dropout(z).reshape(batch, chunks, -1), h)
        return self.out(z), h


class Streaming(nn.Module):  # type: ignore[misc]  # Without PyTorch it is Any.
    """One chunk at a time, as it is exported: probabilities and the state for the next one."""

    def __init__(self, network: Network) -> None:
        super().__init__()
        self.network = network

    def forward(self, x: torch.Tensor, h: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Return probabilities [1, classes] and h_out [1, 1, 48], for x [1, 25, 6]."""
        logits, h = self.network(x[:, None], h)
        return torch.softmax(logits[:, -1], -1), h


@dataclass(frozen=True, slots=True)
class Recordings:
    """float32 [samples, 6] each, with the exercise and the subject of each."""

    samples: list[Floats]
    exercise: NDArray[np.int64]
    subject: NDArray[np.int64]

    @classmethod
    def load(cls, file: Path) -> Recordings:
        """Read the package's file, whose wheel was checked by its digest: a pickle is code."""
        held: dict[str, Any] = np.load(file, allow_pickle=True).item()
        if list(held["y_labels"]) != list(LABELS) or list(held["X_labels"]) != list(CHANNELS):
            raise SystemExit(f"{file}: holds {held['y_labels']} and {held['X_labels']}")
        samples = [np.asarray(x, np.float32) for x in held["X"]]
        return cls(samples, np.asarray(held["y"], np.int64), np.asarray(held["subject"], np.int64))


@dataclass(frozen=True, slots=True)
class Scale:
    """Mean and deviation of each axis over the training recordings."""

    mean: Floats
    std: Floats


def train(data: Recordings, chosen: NDArray[np.int64], seed: int) -> tuple[Network, Scale]:
    """Train on random eight-second pieces with random gain and noise."""
    torch.manual_seed(seed)
    rng = np.random.default_rng(seed)
    every = np.concatenate([data.samples[i] for i in chosen])
    scale = Scale(every.mean(0), every.std(0))
    network = Network()
    optimizer = torch.optim.AdamW(network.parameters(), 2e-3, weight_decay=1e-2)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 4e-3, total_steps=STEPS)
    network.train()
    for _ in range(STEPS):
        picked = rng.choice(chosen, BATCH)
        starts = [rng.integers(0, len(data.samples[i]) - CHUNKS * CHUNK) for i in picked]
        pieces = [data.samples[i][at : at + CHUNKS * CHUNK] for i, at in zip(picked, starts, strict=True)]
        x = torch.tensor((np.stack(pieces) - scale.mean) / scale.std).reshape(BATCH, CHUNKS, CHUNK, 6)
        x = x * (1 + 0.1 * torch.randn(BATCH, 1, 1, 6)) + 0.05 * torch.randn_like(x)
        logits, _ = network(x, torch.zeros(1, BATCH, HIDDEN))
        wanted = torch.tensor(data.exercise[picked])[:, None].expand(-1, CHUNKS - 1)
        loss = nn.functional.cross_entropy(logits[:, 1:].reshape(-1, len(LABELS)), wanted.reshape(-1))
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(network.parameters(), 1.0)
        optimizer.step()
        schedule.step()
    network.eval()
    return network, scale


def chunks_of(samples: Floats, scale: Scale) -> Floats:
    """Return whole chunks, normalised: float32 [chunks, 25, 6]."""
    whole = len(samples) // CHUNK * CHUNK
    return ((samples[:whole] - scale.mean) / scale.std).reshape(-1, CHUNK, 6).astype(np.float32)


def accuracy(network: Network, data: Recordings, chosen: NDArray[np.int64], scale: Scale) -> tuple[float, float]:
    """Return the share of half seconds, and of recordings by their most frequent answer, that come out right."""
    right = total = recordings = 0
    for i in chosen:
        x = torch.tensor(chunks_of(data.samples[i], scale))[None]
        with torch.no_grad():
            said = network(x, torch.zeros(1, 1, HIDDEN))[0][0].argmax(-1).numpy()[WARM_UP_CHUNKS:]
        right += int((said == data.exercise[i]).sum())
        total += len(said)
        recordings += int(np.bincount(said, minlength=len(LABELS)).argmax() == data.exercise[i])
    return right / total, recordings / len(chosen)


def export(network: Network, file: Path) -> None:
    """Write the streaming form."""
    example = (torch.zeros(1, CHUNK, 6), torch.zeros(1, 1, HIDDEN))
    names = {"input_names": ["x", "h"], "output_names": ["probabilities", "h_out"]}
    with warnings.catch_warnings():
        # It warns of its own successor.
        warnings.simplefilter("ignore")
        torch.onnx.export(Streaming(network).eval(), example, str(file), opset_version=17, dynamo=False, **names)


def write_recording(file: Path, samples: Floats) -> None:
    """Write CSV with the time of each sample, s from its beginning."""
    rows = [f"{number / 50:.2f}," + ",".join(f"{value:.5g}" for value in row) for number, row in enumerate(samples)]
    file.write_text("\n".join([f"t,{','.join(CHANNELS)}", *rows]) + "\n", encoding="utf-8")


def write_manifest(folder: Path, scale: Scale, chunk_accuracy: float) -> None:
    """Write model.toml."""
    numbers = {name: [round(float(v), 6) for v in values] for name, values in vars_of(scale).items()}
    digest = hashlib.sha256((folder / "model.onnx").read_bytes()).hexdigest()
    (folder / "model.toml").write_text(
        f"""\
# Which of seven shoulder exercises a watch sees, each half second. Written by scripts/train_har; trained on the watch
# recordings in the PyPI package seglearn 1.2.5 (BSD-3-Clause, see LICENSE), without subjects 9 and 10.
# Right in {chunk_accuracy:.3f} of the half seconds of subjects that a network had not seen (5-fold).
schema = 1
name = "watch-gru"
version = "1.0.0"
task = "classification"
license = "Apache-2.0"
description = "Shoulder exercises from a watch: a convolution and a GRU, half a second at a time"

[model]
path = "model.onnx"
sha256 = "{digest}"

[signal]
name = "x"
layout = "NTC"
rate_hz = 50
length = {CHUNK}
channels = {json.dumps(CHANNELS)}
units = ["g", "g", "g", "rad/s", "rad/s", "rad/s"]
mean = {numbers["mean"]}
std = {numbers["std"]}

[state]
tensors = {{ h = "h_out" }}

[decoder]
name = "classification"
scores = "probabilities"
activation = "none"
classes_max = 3

[labels]
path = "labels.txt"

[golden]
recording = "golden.csv"
expected = "golden.json"

[golden.tolerance]
score = 0.005
""",
        encoding="utf-8",
    )


def vars_of(scale: Scale) -> dict[str, Floats]:
    """Return the fields by name."""
    return {"mean": scale.mean, "std": scale.std}


def write_golden(folder: Path, samples: Floats, scale: Scale) -> str:
    """Write the golden recording and what the network makes of its last half second; return the label."""
    rows = [",".join(CHANNELS), *(",".join(f"{value:.5g}" for value in row) for row in samples)]
    (folder / "golden.csv").write_text("\n".join(rows) + "\n", encoding="utf-8")
    written = np.loadtxt(folder / "golden.csv", delimiter=",", skiprows=1, dtype=np.float32)
    options = ort.SessionOptions()
    options.intra_op_num_threads = 1
    session = ort.InferenceSession(str(folder / "model.onnx"), options, providers=["CPUExecutionProvider"])
    state = np.zeros((1, 1, HIDDEN), np.float32)
    for chunk in chunks_of(written, scale):
        scores, state = session.run(None, {"x": chunk[None], "h": state})
    names = list(LABELS.values())
    best = np.argsort(-scores[0], kind="stable")[:3]
    classes = [{"label": names[i], "class_id": int(i), "score": round(float(scores[0][i]), 4)} for i in best]
    (folder / "golden.json").write_text(json.dumps({"classes": classes}, indent=2) + "\n", encoding="utf-8")
    return names[int(best[0])]


def main() -> None:
    """Measure subject-wise, keep the last fold's network."""
    parser = argparse.ArgumentParser(description="Train the sensor demo's network.")
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--license", type=Path, required=True)
    parser.add_argument("--output", type=Path, required=True)
    parser.add_argument("--recording", type=Path, required=True)
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    torch.set_num_threads(1)
    data = Recordings.load(args.data)
    shares = []
    for held_out in SUBJECTS_HELD_OUT:
        is_held_out = np.isin(data.subject, held_out)
        network, scale = train(data, np.flatnonzero(~is_held_out), args.seed)
        shares.append(accuracy(network, data, np.flatnonzero(is_held_out), scale))
        print(
            f"subjects {held_out}: {shares[-1][0]:.3f} of half seconds, {shares[-1][1]:.3f} of recordings", flush=True
        )
    chunk, recording = np.mean(shares, axis=0)
    print(f"5-fold by subject: {chunk:.3f} of half seconds, {recording:.3f} of recordings")
    args.output.mkdir(parents=True, exist_ok=True)
    export(network, args.output / "model.onnx")
    (args.output / "labels.txt").write_text("\n".join(LABELS.values()) + "\n", encoding="utf-8")
    shutil.copyfile(args.license, args.output / "LICENSE")
    write_manifest(args.output, scale, chunk)
    held_out_i = [int(i) for i in np.flatnonzero(is_held_out)]
    first = {int(data.exercise[i]): data.samples[i] for i in reversed(held_out_i)}
    pieces = [first[exercise][250 : 250 + RECORDING_S * 50] for exercise in (0, 3, 6)]
    write_recording(args.recording, np.concatenate(pieces))
    print(f"golden sample: {write_golden(args.output, pieces[0][: 6 * 50], scale)}")


if __name__ == "__main__":
    main()
