"""What a compiled network and a measured cost are remembered by."""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from agent.engine.digest import sha256_of
from agent.engine.prepare import FAILURES_MAX, Network, Workshop, _cost_key, _facts
from agent.engine.providers import CPU, Provider
from agent.engine.session import OrtEngine, SessionSetup
from agent.engine.trial import Cost, Extras, TensorShape, Trial
from agent.errors import ConfigError
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


TINY = MODELS / "tiny/model.onnx"
CUDA, TENSORRT = Provider("cuda"), Provider("tensorrt")


class Device:
    """Stands for the child: a provider that is named fails in one way, the others work.

    Args:
        broken: what a network with this provider comes to.
    """

    def __init__(self, **broken: ConfigError) -> None:
        self._broken = broken
        self.tried: list[str] = []

    def measure(self, trial: Trial, *, limit_bytes: int) -> Cost:
        """See `trial.measure`."""
        names = [one.name for one in trial.setup.providers]
        self.tried.append(" ".join(names))
        for name in names:
            if name in self._broken:
                raise self._broken[name]
        return Cost(limit_bytes, 1, 2, 1)


def tiny() -> Network:
    """Return a small network that is there."""
    return Network(TINY, sha256_of(TINY), (TensorShape("images", "uint8", (1, 3, 32, 32)),))


def workshop(*providers: Provider) -> Workshop:
    """Return one that keeps nothing."""
    return Workshop(SessionSetup(providers=providers), 1 << 30, None, cache_bytes=0)


@pytest.mark.parametrize(
    "failure",
    [
        ConfigError(f"{TINY}: ONNX Runtime refuses it: Exception during initialization"),
        ConfigError(f"{TINY}: inference failed: no kernel image"),
        ConfigError(f"{TINY}: the process that tried it crashed (SIGSEGV)", "crashes"),
        ConfigError(f"{TINY}: loading and running it did not end within 120 s", "hangs"),
    ],
    ids=["creation", "run", "crash", "hang"],
)
def test_a_provider_with_which_the_network_fails_is_left_out_and_said(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, failure: ConfigError
) -> None:
    """One trial more, and one line with the reason."""
    device = Device(cuda=failure)
    monkeypatch.setattr("agent.engine.prepare.measure", device.measure)
    with caplog.at_level(logging.WARNING):
        prepared = workshop(CUDA, CPU).prepare(tiny())
    assert prepared.setup.providers == (CPU,)
    assert device.tried == ["cuda cpu", "cpu"]
    why = str(failure).removeprefix(f"{TINY}: ")
    assert prepared.missing == {"cuda": why}
    assert caplog.messages == [f"{TINY}: runs without cuda: {why}"]


def test_a_network_that_fails_on_the_cpu_as_well_is_what_is_wrong(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """The error stays what it was, with its harm; the other providers are not tried."""
    first = ConfigError("with cuda", "crashes")
    device = Device(tensorrt=first, cuda=ConfigError("no"), cpu=ConfigError("with the CPU"))
    monkeypatch.setattr("agent.engine.prepare.measure", device.measure)
    with pytest.raises(ConfigError) as caught:
        workshop(TENSORRT, CUDA, CPU).prepare(tiny())
    assert caught.value is first
    assert device.tried == ["tensorrt cuda cpu", "cpu"]
    assert caplog.messages == []


@pytest.mark.parametrize(
    ("asked", "broken", "left"),
    [
        ((TENSORRT, CUDA, CPU), ["tensorrt"], (CUDA, CPU)),
        ((TENSORRT, CUDA, CPU), ["cuda"], (TENSORRT, CPU)),
        ((TENSORRT, CUDA, CPU), ["tensorrt", "cuda"], (CPU,)),
        ((CPU, CUDA), ["cuda"], (CPU,)),
        ((TENSORRT, CUDA), ["tensorrt"], (CUDA,)),
        ((TENSORRT, CUDA), ["cuda"], (TENSORRT,)),
    ],
)
def test_of_several_providers_those_that_fail_are_left_out(
    monkeypatch: pytest.MonkeyPatch, asked: tuple[Provider, ...], broken: list[str], left: tuple[Provider, ...]
) -> None:
    """And no other one, wherever they stand."""
    device = Device(**{name: ConfigError(f"{name} fails") for name in broken})
    monkeypatch.setattr("agent.engine.prepare.measure", device.measure)
    prepared = workshop(*asked).prepare(tiny())
    assert prepared.setup.providers == left
    assert prepared.missing.keys() == set(broken)


def test_a_provider_alone_that_fails_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    """There is nothing to fall back on, and no second trial."""
    device = Device(cuda=ConfigError("cuda fails"))
    monkeypatch.setattr("agent.engine.prepare.measure", device.measure)
    with pytest.raises(ConfigError, match="cuda fails"):
        workshop(CUDA).prepare(tiny())
    assert device.tried == ["cuda"]


def test_a_cost_with_an_accelerator_is_measured_at_each_start(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The provider may be gone since: what a run before remembered, or hands over, proves nothing of it."""
    setup = SessionSetup(providers=(CUDA, CPU))
    before, now = Device(), Device(cuda=ConfigError("the device is lost"))
    key = _cost_key(tiny(), setup, is_compiled=False)
    known = {"session_bytes": 1, "run_bytes": 1, "peak_bytes": 2, "input_bytes": 1, "has_memory_pattern": True}
    monkeypatch.setattr("agent.engine.prepare.measure", before.measure)
    first = Workshop(setup, 1 << 30, tmp_path, cache_bytes=0)
    assert first.prepare(tiny()).setup.providers == (CUDA, CPU)
    monkeypatch.setattr("agent.engine.prepare.measure", now.measure)
    for carried in (None, first.export(), {key: known}):
        prepared = Workshop(setup, 1 << 30, tmp_path, cache_bytes=0, carried=carried).prepare(tiny())
        assert prepared.setup.providers == (CPU,)
        assert prepared.missing == {"cuda": "the device is lost"}
    assert now.tried == ["cuda cpu", "cpu", "cuda cpu", "cuda cpu"]  # The CPU's cost is remembered.


def test_a_network_is_looked_at_without_a_provider_that_does_not_work() -> None:
    """One without model.toml, before it is prepared."""
    found = workshop(Provider("xnnpack"), CPU).describe(TINY)
    assert [spec.name for spec in found.inputs] == ["images"]
    with pytest.raises(ConfigError, match="refuses it"):
        workshop(Provider("xnnpack"), CPU).describe(MODELS / "tiny/model.toml")


def test_failures_are_kept_up_to_a_limit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nobody may ever ask for them: a canary's, and those of a change that is refused."""
    monkeypatch.setattr("agent.engine.prepare.measure", Device().measure)
    (tmp_path / "costs.json").mkdir()
    made = Workshop(SessionSetup(), 1 << 30, tmp_path, cache_bytes=0)
    for threads in range(FAILURES_MAX + 1):
        made.prepare(tiny(), SessionSetup(threads=threads))
    assert len(made.failures) == FAILURES_MAX
