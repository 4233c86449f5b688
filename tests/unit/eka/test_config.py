"""Settings: layers, their origins, and errors that name file and key."""

from __future__ import annotations

from pathlib import Path

import pytest

from eka import config
from eka.config import ATOM_TABLES, cache_dir, config_dir, load_settings, state_dir
from eka_runtime.errors import ConfigError


@pytest.fixture
def home(tmp_path: Path) -> dict[str, str]:
    return {"HOME": str(tmp_path)}


def write(home: dict[str, str], text: str) -> Path:
    file = config_dir(home) / "eka.toml"
    file.parent.mkdir(parents=True)
    file.write_text(text)
    return file


def test_defaults_follow_the_base_directory_specification(home: dict[str, str]) -> None:
    base = Path(home["HOME"])
    assert load_settings(home).store == base / ".local/share/eka/store"
    assert cache_dir(home) == base / ".cache/eka"
    absolute = {**home, "XDG_DATA_HOME": "/data", "XDG_CACHE_HOME": "relative"}
    assert load_settings(absolute).store == Path("/data/eka/store")
    assert cache_dir(absolute) == base / ".cache/eka"


def test_later_layers_win_and_say_so(home: dict[str, str]) -> None:
    file = write(home, 'store = "/from/file"\nshell = "/bin/sh-static"\n')
    settings = load_settings(home)
    assert (settings.store, settings.shell) == (Path("/from/file"), "/bin/sh-static")
    assert settings.origin["store"] == str(file)
    environ = {**home, "EKA_STORE": "/from/env"}
    assert load_settings(environ).origin["store"] == "EKA_STORE"
    assert load_settings(environ).store == Path("/from/env")
    chosen = load_settings(environ, store=Path("/from/flag"))
    assert (chosen.store, chosen.origin["store"]) == (Path("/from/flag"), "--store")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('stor = "/x"', "unknown key `stor`"),
        ("store = 1", "`store` in .* must be a non-empty string"),
        ('store = "x"', "must be an absolute path: x"),
        ("store = ", "is not valid TOML"),
        ('record = "yes"', "`record` in .* must be true or false"),
        ("services = 1", "`services` in .* must be a table"),
        ('[services]\nblob = "x"', "unknown key `services.blob`"),
        ("[services]\nblobs = 1", "`services.blobs` in .* must be a non-empty string"),
        ('[services]\nurl = ""', "`services.url` in .* must be a non-empty string"),
        ('[services]\ncomposition = "/x"\nurl = "y"', "addresses beside it"),
        ('[services]\ncomposition = "x"', "must be an absolute path"),
    ],
)
def test_bad_settings_are_errors(home: dict[str, str], text: str, message: str) -> None:
    write(home, text)
    with pytest.raises(ConfigError, match=message):
        load_settings(home)


def test_runs_are_recorded_only_where_that_is_asked_for(home: dict[str, str]) -> None:
    assert load_settings(home).record is False
    write(home, "record = true\n")
    assert load_settings(home).record is True
    assert state_dir(home) == Path(home["HOME"]) / ".local/state/eka"


def test_services_are_a_table_of_strings(home: dict[str, str]) -> None:
    assert load_settings(home).services == {}
    write(home, 'store = "/x"\n[services]\nurl = "grpc+unix:/s"\nblobs = "memory:"\n')
    settings = load_settings(home)
    assert settings.services == {"url": "grpc+unix:/s", "blobs": "memory:"}
    assert "services" not in settings.origin


def test_every_key_and_variable_is_written_down() -> None:
    page = (Path(__file__).parents[3] / "spec" / "settings.md").read_text("utf-8")
    tables = [f"[{name}]" for name in ("services", "caches", *ATOM_TABLES)]
    for word in (*config._KEYS, *config._KEYS.values(), "record", *tables):
        assert f"`{word}`" in page
