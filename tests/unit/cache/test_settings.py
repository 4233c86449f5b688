"""Which caches and keys are in force: variables over eka.toml over nix.conf."""

from __future__ import annotations

from pathlib import Path

import pytest

from eka_runtime.cache.access import Access
from eka_runtime.cache.location import Location, open_cache
from eka_runtime.cache.settings import DEFAULT_KEYS, CacheSettings, checked_table, in_force
from eka_runtime.cache.substituter import open_caches
from eka_runtime.cache.trust import Trust
from eka_runtime.errors import ConfigError, UsageError


@pytest.fixture
def environ(tmp_path: Path) -> dict[str, str]:
    """One whose nix.conf files are all below a fresh directory."""
    for name in ("etc", "home/.config/nix", "xdg/nix"):
        (tmp_path / name).mkdir(parents=True)
    return {
        "NIX_CONF_DIR": str(tmp_path / "etc"),
        "HOME": str(tmp_path / "home"),
        "XDG_CONFIG_DIRS": str(tmp_path / "xdg"),
    }


def test_nothing_is_asked_that_nobody_named(environ: dict[str, str]) -> None:
    assert in_force(environ, {}) == CacheSettings((), DEFAULT_KEYS)


def test_the_stronger_wins_key_by_key(environ: dict[str, str], tmp_path: Path) -> None:
    system = tmp_path / "etc" / "nix.conf"
    system.write_text(
        "substituters = http://a http://b http://a\ntrusted-public-keys = k:1\n"
        "require-sigs = false\nnetrc-file = /etc/netrc\nssl-cert-file = /etc/certs\n"
    )
    assert in_force(environ, {}) == (
        ("http://a", "http://b"),
        ("k:1",),
        False,
        "/etc/netrc",
        "/etc/certs",
    )
    table = {"substituters": ["http://c"], "require-sigs": True}
    assert in_force(environ, table)[:3] == (("http://c",), ("k:1",), True)
    stated = environ | {"EKA_SUBSTITUTERS": "http://d http://e", "EKA_TRUSTED_PUBLIC_KEYS": ""}
    assert in_force(stated, table)[:2] == (("http://d", "http://e"), ())
    assert in_force(environ | {"NETRC": "/n"}, table).netrc_file == "/n"


def test_the_files_of_nix_are_read_as_nix_does(environ: dict[str, str], tmp_path: Path) -> None:
    (tmp_path / "etc" / "nix.conf").write_text(
        "# a comment\nsubstituters = http://a\nextra-substituters = http://x\n"
        "include more.conf\n!include absent.conf\nkeep-going = true\n"
    )
    (tmp_path / "etc" / "more.conf").write_text("extra-trusted-public-keys = m:1 # more\n")
    (tmp_path / "xdg" / "nix" / "nix.conf").write_text("substituters = http://system\n")
    own = tmp_path / "home" / ".config" / "nix" / "nix.conf"
    own.write_text("substituters = http://own\nextra-substituters = http://y\n")
    environ["NIX_CONFIG"] = "extra-binary-caches = http://z"
    found = in_force(environ, {})
    assert found.substituters == ("http://own", "http://x", "http://y", "http://z")
    assert found.keys == (*DEFAULT_KEYS, "m:1")
    own.write_text("substitute = false\n")
    assert in_force(environ, {}).substituters == ()
    environ["NIX_USER_CONF_FILES"] = str(tmp_path / "etc" / "more.conf")
    assert in_force(environ, {}).substituters[0] == "http://a"


def test_what_makes_no_sense_is_refused(environ: dict[str, str], tmp_path: Path) -> None:
    conf = tmp_path / "etc" / "nix.conf"
    conf.write_text("include absent.conf\n")
    with pytest.raises(ConfigError, match=r"cannot read .*absent\.conf"):
        in_force(environ, {})
    conf.write_text("include nix.conf\n")
    with pytest.raises(ConfigError, match="more than 16 deep"):
        in_force(environ, {})
    for table, problem in (
        ([], "must be a table"),
        ({"substituter": []}, "unknown key"),
        ({"substituters": "http://a"}, "must be a list"),
        ({"substituters": [""]}, "must be a list"),
        ({"require-sigs": "no"}, "true or false"),
        ({"netrc-file": "netrc"}, "an absolute path"),
    ):
        with pytest.raises(ConfigError, match=problem):
            checked_table("eka.toml", table)
    with pytest.raises(ConfigError, match="trusted-public-keys"):
        open_caches(CacheSettings((), ("nonsense",)), Access({}))


def test_urls_and_their_parameters(tmp_path: Path) -> None:
    place = Location.parse("file:///a%20b?priority=3&trusted=1&compression=xz")
    assert str(place.directory) == "/a b"
    assert (place.priority, place.trusted, place.local) == (3, True, True)
    for wrong in ("ftp://x", "file://host/x", "file:x", "https:///x", "s3://", "nonsense"):
        with pytest.raises(UsageError):
            Location.parse(wrong)
    cache = open_cache("http://user:secret@host:1/path/?priority=7", Trust(), Access({}))
    assert cache.name == "http://host:1/path"
    assert open_cache("file:///x?trusted=1", Trust(), Access({})).trust.all
