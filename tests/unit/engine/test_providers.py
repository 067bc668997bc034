"""Execution providers: asked for, there, and nothing in silence."""

from __future__ import annotations

from pathlib import Path

import pytest
from pydantic import ValidationError

from agent.engine.providers import CPU, Provider, plan_providers
from agent.engine.session import OrtEngine, ProviderMissingError, SessionSetup, available_providers
from agent.errors import ConfigError
from agent.settings import EngineSettings
from tests.paths import MODELS

CUDA_BUILD = ["TensorrtExecutionProvider", "CUDAExecutionProvider", "CPUExecutionProvider"]


def test_what_the_build_lacks_is_left_out_and_named() -> None:
    """The order stays, the options go along as ONNX Runtime's texts."""
    options = {"cuda": {"device_id": 1, "use_tf32": False}}
    plan = plan_providers(["openvino", "cuda", "cpu"], options, CUDA_BUILD)
    assert plan.usable == (Provider("cuda", (("device_id", "1"), ("use_tf32", "0"))), CPU)
    assert plan.absent == ["openvino"]


def test_without_any_of_them_nothing_starts() -> None:
    """Falling back to the CPU is only done where it was listed."""
    with pytest.raises(ConfigError, match=r"none of qnn, xnnpack is in this build.*add 'cpu'"):
        plan_providers(["qnn", "xnnpack"], {}, available_providers())


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ({"providers": ["gpu"]}, "'cuda', 'tensorrt'"),
        ({"providers": ["cpu", "cpu"]}, "names one twice"),
        ({"providers": []}, "at least 1 item"),
        ({"provider_options": {"cuda": {"devce_id": 0}}}, "cuda.devce_id is no option that Edgebeat passes on"),
        ({"provider_options": {"cuda": {"device_id": "0"}}}, "cuda.device_id is '0': it must be a whole number"),
        ({"provider_options": {"cuda": {"use_tf32": 1}}}, "must be true or false"),
        ({"provider_options": {"cpu": {"x": 1}}}, "known are none"),
    ],
)
def test_wrong_settings_are_refused(values: dict[str, object], said: str) -> None:
    """ONNX Runtime would take each of them without a word."""
    with pytest.raises(ValidationError, match=said):
        EngineSettings.model_validate(values)


@pytest.mark.filterwarnings("ignore:Specified provider")
def test_a_provider_that_does_not_work_is_an_error_and_no_fallback(capsys: pytest.CaptureFixture[str]) -> None:
    """ONNX Runtime runs it on the CPU without an error; we compare, and nothing is printed."""
    setup = SessionSetup(providers=(Provider("xnnpack"), CPU))
    with pytest.raises(ProviderMissingError, match="xnnpack was asked for and ONNX Runtime runs it on CPU") as caught:
        OrtEngine(Path(MODELS / "tiny/model.onnx"), sha256=None, setup=setup)
    assert caught.value.missing == ["xnnpack"]
    assert capsys.readouterr().out == ""
