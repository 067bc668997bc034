"""Settings from their layers."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from agent.cli.load import load_settings, read_layers
from agent.errors import ConfigError
from agent.layers import Layers

ONE_OFF: dict[str, Any] = {
    "models": [{"name": "m", "path": "p"}],
    "streams": [{"name": "s", "source": "x", "model": "m"}],
}


def problems_of(tmp_path: Path, text: str, environ: dict[str, str] | None = None) -> list[str]:
    """Return what is wrong with a file, with its path shortened to its name."""
    file = tmp_path / "agent.toml"
    file.write_text(text)
    with pytest.raises(ConfigError) as caught:
        load_settings(file, {}, environ or {})
    return [problem.replace(str(file), "agent.toml") for problem in caught.value.problems]


def test_precedence_and_origins(tmp_path: Path) -> None:
    """Command line over environment over file over default, and each value names its layer."""
    file = tmp_path / "agent.toml"
    file.write_text('[mqtt]\nurl = "mqtt://file"\nkeepalive_s = 10\n[limits]\nthreads = 3\n')
    environ = {"EDGEBEAT_MQTT__URL": "mqtt://env", "EDGEBEAT_MQTT__KEEPALIVE_S": "20", "HOME": "x"}
    loaded = load_settings(file, {**ONE_OFF, "mqtt": {"url": "mqtt://line"}}, environ)
    assert loaded.settings.mqtt.url == "mqtt://line"
    assert loaded.settings.mqtt.keepalive_s == 20
    assert loaded.settings.limits.threads == 3
    assert loaded.origins["mqtt.url"] == "command line"
    assert loaded.origins["mqtt.keepalive_s"] == "EDGEBEAT_MQTT__KEEPALIVE_S"
    assert loaded.origins["limits.threads"] == f"{file}:5"
    assert loaded.origins["health.period_s"] == "default"


def test_the_environment_reaches_into_one_stream() -> None:
    """A list item is set by its index, and the rest of it stays."""
    loaded = load_settings(None, ONE_OFF, {"EDGEBEAT_STREAMS__0__MAX_FPS": "4"})
    (stream,) = loaded.settings.streams
    assert (stream.name, stream.max_fps) == ("s", 4.0)


def test_every_error_is_reported_at_once_with_line_and_cure(tmp_path: Path) -> None:
    """Single fields, unknown keys, references and the environment, in one go."""
    text = """\
[device]
id = "po rch"
[mqtt]
ulr = "x"
protocol = 4
[limits]
threads = 0
[[models]]
name = "a"
path = "p"
[[streams]]
name = "door"
source = "x.mp4"
model = "b"
deadline_ms = -1
[[streams]]
name = "door"
model = "a"
"""
    found = "\n".join(problems_of(tmp_path, text, {"EDGEBEAT_MQT__URL": "x", "EDGEBEAT_MQTT__KEEPALIVE_S": "soon"}))
    for expected in (
        "agent.toml:2: device.id: 'po rch': must be",
        "agent.toml:4: mqtt.ulr: is not a setting: did you mean 'url'?",
        "agent.toml:5: mqtt.protocol: 4: input should be '5' or '3.1.1'",
        "agent.toml:7: limits.threads: 0: input should be greater than or equal to 1",
        "agent.toml:15: streams.0.deadline_ms: -1: input should be greater than 0",
        "agent.toml:17: streams.1.name: 'door' is used twice",
        "agent.toml:14: streams.0.model: 'b' is not under [[models]]: known are 'a'",
        "streams.1.source: is missing",
        "EDGEBEAT_MQT__URL: is not a setting: did you mean 'mqtt'?",
        "EDGEBEAT_MQTT__KEEPALIVE_S: mqtt.keepalive_s: 'soon'",
    ):
        assert expected in found


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("[mqtt\n", "is not valid TOML"),
        ("", "streams: is empty"),
        ("streams = 3\n", "streams: 3"),
        ('[[streams]]\nname = "door"\ndeadline_ms = 0\n', "deadline_ms: 0: input should be greater than 0"),
        ("models = [1]\nstreams = [{}]\n", "models.0: 1"),
        ('[mqtt]\nurl = "http://x"\n', "is not a broker's URL"),
        ('[mqtt]\nurl = "mqtt://user:secret@x"\n', "must not hold credentials"),
        ('[mqtt]\nurl = "mqtt://x:99999"\n', "is not a URL"),
        ('[mqtt]\nurl = "mqtt://a b"\n', "names no valid host"),
        ('[mqtt]\nurl = "mqtt://-.invalid"\n', "names no valid host"),
        ('[mqtt]\nurl = "mqtt://a..b"\n', "names no valid host"),
        ('[mqtt]\nurl = "mqtt://h/x"\n', "has a path"),
        ('[mqtt]\nurl = "mqtts://h?y"\n', "has a path"),
        ('[mqtt]\ntopic_prefix = "a/+/b"\n', "without wildcards"),
        ('[mqtt]\ntopic_prefix = "a b"\n', "without wildcards"),
        ('[mqtt]\ntopic_prefix = "' + "a/" * 60 + '\u00e4\u00e4\u00e4\u00e4\u00e4"\n', "128 bytes at most"),
        ('[device]\nid = "po\\u0085rch"\n', "visible characters"),
        ('[device]\nid = "p\\ufffe"\n', "visible characters"),
        ('[device]\nid = "a\\u00a0b"\n', "visible characters"),
        ('[device]\nid = "a\\u2028b"\n', "visible characters"),
        ('[device]\nid = "a\\u200bb"\n', "visible characters"),
        ('[device]\nid = "a\\u0000b"\n', "visible characters"),
        ('[device]\nid = "$x"\n', "visible characters"),
        ('[mqtt]\ncert_file = "x"\n', "go together"),
        ("[limits]\nthreads = true\n", "limits.threads: True: is no true or false"),
        ("[health]\nperiod_s = nan\n", "health.period_s"),
        ("[health]\nperiod_s = inf\n", "health.period_s"),
    ],
)
def test_wrong_files_name_what_is_wrong(tmp_path: Path, text: str, expected: str) -> None:
    """One kind of mistake each."""
    assert expected in "\n".join(problems_of(tmp_path, text))


@pytest.mark.parametrize(
    ("name", "value", "said"),
    [
        ("EDGEBEAT_STREAMS__0__NAME", "", "EDGEBEAT_STREAMS__0__NAME: streams.0.name: ''"),
        ("EDGEBEAT_MQTT", "1", "EDGEBEAT_MQTT: mqtt: '1'"),
        ("EDGEBEAT_MQTT__URL__X", "1", "EDGEBEAT_MQTT__URL__X: mqtt.url: {'x': '1'}"),
        ("EDGEBEAT_STREAMS__X__Y", "1", "streams: "),
        ("EDGEBEAT_STREAMS__5__NAME", "x", "EDGEBEAT_STREAMS__5__NAME: streams.5: there are 1, numbered from 0"),
        ("EDGEBEAT_STREAMS", "x", "EDGEBEAT_STREAMS: streams: 'x'"),
        ("EDGEBEAT_", "x", "EDGEBEAT_: is not a setting"),
    ],
)
def test_nonsense_in_the_environment_is_named(tmp_path: Path, name: str, value: str, said: str) -> None:
    """The variable is what must be corrected, so the variable is what is named."""
    text = '[mqtt]\nurl = "mqtt://h"\n[[models]]\nname = "m"\npath = "p"\n'
    text += '[[streams]]\nname = "s"\nsource = "x"\nmodel = "m"\n'
    assert said in "\n".join(problems_of(tmp_path, text, {name: value}))


def test_a_file_that_is_absent_or_no_text(tmp_path: Path) -> None:
    """The file is named, with the reason."""
    with pytest.raises(ConfigError, match="cannot be read: No such file"):
        load_settings(tmp_path / "none.toml", {}, {})
    binary = tmp_path / "binary.toml"
    binary.write_bytes(b"\xff\xfe")
    with pytest.raises(ConfigError, match="is not UTF-8"):
        load_settings(binary, {}, {})


def test_live_streams_have_a_deadline_by_default_and_every_frame_ones_none() -> None:
    """The default deadline depends on the mode."""
    (stream,) = load_settings(None, ONE_OFF, {}).settings.streams
    assert stream.budget_ms == 250
    batch = {**ONE_OFF, "streams": [{**ONE_OFF["streams"][0], "mode": "every_frame"}]}
    (stream,) = load_settings(None, batch, {}).settings.streams
    assert stream.budget_ms is None


def test_layers_go_to_the_next_run_and_come_back_as_they_were(tmp_path: Path) -> None:
    """A restart in place must not read a file that was broken meanwhile."""
    file = tmp_path / "agent.toml"
    file.write_text("[limits]\nthreads = 3\n[degradation]\nsteps = []\n")
    layers = read_layers(file, ONE_OFF, {"EDGEBEAT_STREAMS__0__MAX_FPS": "4"})
    again = Layers.imported(json.loads(json.dumps(layers.export())))
    assert again.load() == layers.load()


@pytest.mark.parametrize(
    "text",
    [
        'url = "mqtt://my_box.local:1883"',
        'url = "mqtts://[fe80::1]:8883"',
        'url = "wss://broker.example:443/mqtt?token=1"',
        'url = "mqtt://10.0.0.7/"',
        'topic_prefix = "werk/halle-2/\u00f6l\u00b0"',
    ],
)
def test_what_brokers_take_is_taken(tmp_path: Path, text: str) -> None:
    """Nothing more is refused than must be."""
    assert not [problem for problem in problems_of(tmp_path, f"[mqtt]\n{text}\n") if problem.startswith("mqtt")]
