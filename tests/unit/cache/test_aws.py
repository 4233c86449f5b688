"""Who asks a bucket, and from where: what variables and files of AWS come to."""

from __future__ import annotations

from pathlib import Path

import pytest

from eka_runtime.cache.aws import bucket_options
from eka_runtime.errors import ConfigError

_KEYS = {"AWS_ACCESS_KEY_ID": "somebody", "AWS_SECRET_ACCESS_KEY": "secret"}
_CREDENTIALS = "[default]\naws_access_key_id = usual\naws_secret_access_key = secret\n"


@pytest.fixture
def environ(tmp_path: Path) -> dict[str, str]:
    """With a default profile, and one that has a region only."""
    place = tmp_path / ".aws"
    place.mkdir()
    (place / "credentials").write_text(_CREDENTIALS)
    config = "[default]\nregion = eu-west-3\n[profile there]\nregion = sa-east-1\n"
    (place / "config").write_text(config)
    return {"HOME": str(tmp_path)}


def test_keys_of_variables_leave_the_region_to_the_profile(environ: dict[str, str]) -> None:
    environ |= _KEYS
    options = bucket_options({}, environ)
    assert (options["region"], "credential_provider" in options) == ("eu-west-3", False)
    assert bucket_options({}, environ | {"AWS_PROFILE": "there"})["region"] == "sa-east-1"
    assert bucket_options({}, environ | {"AWS_REGION": "us-west-1"})["region"] == "us-west-1"


@pytest.mark.parametrize(("value", "unsigned"), [("false", False), ("0", False), ("True", True)])
def test_to_skip_signatures_has_to_be_meant(
    environ: dict[str, str], value: str, unsigned: bool
) -> None:
    environ["AWS_SKIP_SIGNATURE"] = value
    provider = bucket_options({}, environ).get("credential_provider")
    assert (provider is None) is unsigned
    if provider:
        assert provider()["access_key_id"] == "usual"


def test_a_file_that_cannot_be_read_is_told(environ: dict[str, str], tmp_path: Path) -> None:
    """A directory is that to root, too."""
    environ["AWS_SHARED_CREDENTIALS_FILE"] = str(tmp_path)
    with pytest.raises(ConfigError, match=f"cannot read `{tmp_path}`: Is a directory"):
        bucket_options({}, environ)
    # Nobody needs it who has said everything himself.
    stated = environ | _KEYS | {"AWS_REGION": "us-west-1"}
    assert bucket_options({}, stated)["region"] == "us-west-1"
    environ["AWS_SHARED_CREDENTIALS_FILE"] = str(tmp_path / ".aws" / "config" / "absent")
    assert "credential_provider" not in bucket_options({}, environ)


def test_an_endpoint_that_the_library_would_not_go_to_is_refused(environ: dict[str, str]) -> None:
    environ["AWS_ENDPOINT_URL_S3"] = "https://one.example/"
    assert bucket_options({}, environ)["endpoint"] == "https://one.example/"
    same = {"endpoint": "one.example"}
    assert bucket_options(same, environ)["endpoint"] == "https://one.example"
    with pytest.raises(ConfigError, match="AWS_ENDPOINT_URL_S3 is another"):
        bucket_options({"endpoint": "two.example"}, environ)
