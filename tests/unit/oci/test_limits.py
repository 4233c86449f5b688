"""Limits as they are written, and where they stand in config.json."""

from __future__ import annotations

import pytest

from eka_runtime.errors import GrantError
from eka_runtime.oci.bundle import compile_bundle
from eka_runtime.oci.grants import Grants
from eka_runtime.oci.limits import effective, parse_limit
from eka_runtime.oci.profile import load_profile
from tests.unit.oci.requests import request


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("memory=512M", 512 << 20),
        ("memory=1GiB", 1 << 30),
        ("memory=2000000", 2_000_000),
        ("pids=64", 64),
        ("cpu=10s", 10),
        ("cpu=1.5s", 2),
        ("cpu=2m", 120),
        ("time=250ms", 250),
        ("time=1.5", 1500),
        ("time=1h", 3_600_000),
        ("files=8", 8),
        ("file-size=64K", 65536),
        ("time=none", None),
    ],
)
def test_what_can_be_written(text: str, value: int | None) -> None:
    assert parse_limit(text, "x").value == value


@pytest.mark.parametrize(
    "text",
    [
        *("", "memory", "memory=", "memory=0", "memory=1K", "memory=-1", "memory=1X", "memory=1 G"),
        *("pids=0", "pids=1.5", "pids=1K", "cpu=0", "time=0", "time=1d", "time=1.2345s"),
        *("files=1", "file-size=1", "swap=1G", "memory=9999999999999T", "pids=\u0661"),
    ],
)
def test_what_cannot(text: str) -> None:
    with pytest.raises(GrantError) as caught:
        parse_limit(text, "header limits")
    assert f"`{text}` (header limits)" in str(caught.value)
    assert caught.value.hint


def test_the_strongest_statement_counts_and_none_lifts() -> None:
    profile = [parse_limit("memory=1G", "p"), parse_limit("pids=5", "p")]
    asked = [parse_limit("memory=2G", "flag"), parse_limit("memory=3G", "header")]
    found = effective(profile, [*asked, parse_limit("pids=none", "header")])
    assert {name: (one.text, one.origin) for name, one in found.items()} == {
        "memory": ("2G", "flag")
    }


def test_limits_are_in_the_bundle_and_explained() -> None:
    texts = ("memory=64M", "pids=9", "cpu=3s", "time=2s", "files=99", "file-size=1M")
    grants = Grants(limits=tuple(parse_limit(text, "--limit") for text in texts))
    bundle = compile_bundle(request(grants=grants))
    data = bundle.spec.to_data()
    assert data["linux"]["resources"] == {
        "memory": {"limit": 64 << 20, "swap": 64 << 20},
        "pids": {"limit": 9},
    }
    assert data["process"]["rlimits"] == [
        {"type": "RLIMIT_CPU", "soft": 3, "hard": 4},
        {"type": "RLIMIT_FSIZE", "soft": 1 << 20, "hard": 1 << 20},
        {"type": "RLIMIT_NOFILE", "soft": 99, "hard": 99},
    ]
    assert data["annotations"]["dev.eka.limit.time"] == "2000"
    said = {reason.subject: reason for reason in bundle.reasons if reason.kind == "limit"}
    assert set(said) == {text.partition("=")[0] for text in texts}
    assert {reason.origin for reason in said.values()} == {"--limit"}


def test_a_profile_may_state_limits(tmp_path: object) -> None:
    from pathlib import Path

    file = Path(str(tmp_path)) / "mine.toml"
    file.write_text('description = "x"\nextends = "run"\nlimits = ["time=1h", "pids=100"]\n')
    profile = load_profile(str(file))
    assert [(one.name, one.value) for one in profile.limits] == [("pids", 100), ("time", 3_600_000)]
    data = compile_bundle(request()._replace(profile=profile)).spec.to_data()
    assert data["linux"]["resources"] == {"pids": {"limit": 100}}
