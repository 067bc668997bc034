"""What a compiled network and a measured cost are remembered by."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from agent.engine.digest import sha256_of
from agent.engine.prepare import Network, Workshop, _cost_key, _facts
from agent.engine.providers import CPU, Provider
from agent.engine.session import OrtEngine, SessionSetup
from agent.engine.trial import Cost, Extras, TensorShape, Trial
from tests.paths import MODELS

NETWORK = Network(Path("m.onnx"), "ab" * 32, (TensorShape("images", "uint8", (1, 3, 32, 32)),), {"w.bin": "cd" * 32})
SETUP = SessionSetup(threads=2, providers=(Provider("cuda", (("device_id", "0"),)), CPU))

Change = Callable[[Network, SessionSetup, Path], tuple[Network, SessionSetup]]


def key(network: Network, setup: SessionSetup) -> str:
    """Return the name of a cost that was measured with the compiled form."""
    return _cost_key(network, setup, is_compiled=True)


def with_operators(network: Network, setup: SessionSetup, folder: Path) -> tuple[Network, SessionSetup]:
    """Name an operator library."""
    file = folder / "libops.so"
    file.write_bytes(b"one")
    return network, replace(setup, custom_ops=(str(file),))


@pytest.mark.parametrize(
    "change",
    [
        lambda network, setup, _: (replace(network, sha256="ef" * 32), setup),
        lambda network, setup, _: (replace(network, external={"w.bin": "ef" * 32}), setup),
        lambda network, setup, _: (replace(network, external={"v.bin": "cd" * 32}), setup),
        lambda network, setup, _: (network, replace(setup, providers=(CPU,))),
        lambda network, setup, _: (network, replace(setup, providers=(CPU, *setup.providers[:1]))),
        lambda network, setup, _: (network, replace(setup, providers=(Provider("cuda"), CPU))),
        lambda network, setup, _: (
            network,
            replace(setup, providers=(Provider("cuda", (("device_id", "1"),)), CPU)),
        ),
        with_operators,
    ],
    ids=["digest", "weights", "name", "provider", "order", "no option", "option", "operators"],
)
def test_another_network_or_setup_is_another_entry(tmp_path: Path, change: Change) -> None:
    """Neither a compiled form nor a cost of one serves the other."""
    other = change(NETWORK, SETUP, tmp_path)
    assert _facts(*other) != _facts(NETWORK, SETUP)
    assert key(*other) != key(NETWORK, SETUP)


@pytest.mark.parametrize("fact", ["runtime_version", "cpu_flags"])
def test_another_runtime_or_cpu_is_another_entry(monkeypatch: pytest.MonkeyPatch, fact: str) -> None:
    """After an upgrade, or with the card in another device: its layouts and kernels are chosen anew."""
    facts, before = _facts(NETWORK, SETUP), key(NETWORK, SETUP)
    monkeypatch.setattr(f"agent.engine.prepare.{fact}", lambda: "another")
    assert _facts(NETWORK, SETUP) != facts
    assert key(NETWORK, SETUP) != before


def test_a_library_of_operators_counts_by_its_content(tmp_path: Path) -> None:
    """An upgrade of it keeps its name."""
    network, setup = with_operators(NETWORK, SETUP, tmp_path)
    facts, before = _facts(network, setup), key(network, setup)
    (tmp_path / "libops.so").write_bytes(b"two")
    assert _facts(network, setup) != facts
    assert key(network, setup) != before


@pytest.mark.parametrize(
    ("network", "setup"),
    [
        (NETWORK, replace(SETUP, threads=3)),
        (NETWORK, replace(SETUP, has_arena=False)),
        (replace(NETWORK, inputs=(TensorShape("images", "uint8", (1, 3, 64, 64)),)), SETUP),
        (replace(NETWORK, inputs=(replace(NETWORK.inputs[0], sizes={"hw": (480, 640)}),)), SETUP),
        (replace(NETWORK, extras=Extras({"scale": (2.0,)})), SETUP),
        (replace(NETWORK, extras=Extras(states={"h": "h_out"})), SETUP),
    ],
    ids=["threads", "arena", "input", "sizes", "constants", "states"],
)
def test_what_only_the_cost_depends_on_leaves_the_compiled_form(network: Network, setup: SessionSetup) -> None:
    """The optimiser takes no notice of threads, the arena and what comes in."""
    assert _facts(network, setup) == _facts(NETWORK, SETUP)
    assert key(network, setup) != key(NETWORK, SETUP)


def test_another_value_of_a_constant_is_another_cost() -> None:
    """What a network takes may be what a constant says."""
    one, other = (replace(NETWORK, extras=Extras({"n": (value,)})) for value in (1, 2))
    assert key(one, SETUP) != key(other, SETUP)


def test_the_same_written_otherwise_is_the_same() -> None:
    """Digests in capitals, and the place of the file."""
    same = replace(NETWORK, file=Path("elsewhere/m.onnx"), sha256="AB" * 32, external={"w.bin": "CD" * 32})
    assert _facts(same, SETUP) == _facts(NETWORK, SETUP)
    assert key(same, SETUP) == key(NETWORK, SETUP)
    assert key(NETWORK, SETUP) != _cost_key(NETWORK, SETUP, is_compiled=False)


def test_a_network_is_loaded_in_the_way_that_its_trial_found_to_be_the_leanest(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also at the next start, when nothing is tried any more; what an older version remembered is measured again."""
    tried: list[Path] = []

    def measure(trial: Trial, *, limit_bytes: int) -> Cost:
        tried.append(trial.file)
        assert limit_bytes == 1 << 30
        return Cost(1, 1, 2, 1, has_memory_pattern=False)

    monkeypatch.setattr("agent.engine.prepare.measure", measure)
    file = MODELS / "tiny/model.onnx"
    network = Network(file, sha256_of(file), (TensorShape("images", "uint8", (1, 3, 32, 32)),))
    for _ in range(2):
        prepared = Workshop(SessionSetup(), 1 << 30, tmp_path, cache_bytes=0).prepare(network)
        assert prepared.setup == SessionSetup(has_memory_pattern=False)
        session = OrtEngine(file, sha256=None, setup=prepared.setup)._session
        assert session is not None
        assert not session.get_session_options().enable_mem_pattern
    assert tried == [file]
    known = {"session_bytes": 1, "run_bytes": 1, "peak_bytes": 2, "input_bytes": 1}
    older = {_cost_key(network, SessionSetup(), is_compiled=False): known}
    Workshop(SessionSetup(), 1 << 30, None, cache_bytes=0, carried=older).prepare(network)
    assert tried == [file, file]
