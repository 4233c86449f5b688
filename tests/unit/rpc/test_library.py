"""gRPC is an extra: missed with advice where it is needed, and never loaded where it is not."""

from __future__ import annotations

import subprocess
import sys

import pytest


def run(code: str) -> str:
    done = subprocess.run(
        [sys.executable, "-c", code], check=True, stdout=subprocess.PIPE, text=True
    )
    return done.stdout


@pytest.mark.parametrize(
    "module", ["castore.remote", "castore.served", "store.remote", "store.served", "rpc.server"]
)
def test_without_the_library(module: str) -> None:
    printed = run(
        "import sys\n"
        "from eka_runtime.errors import MissingExtra\n"
        "sys.modules['grpc'] = None\n"
        "try:\n"
        f"    import eka_runtime.{module}\n"
        "except MissingExtra as error:\n"
        "    print(error.exit_code, error.hint)\n"
    )
    assert printed == "2 install it: `pip install 'eka[grpc]'`\n"


def test_most_do_without_it() -> None:
    printed = run(
        "import sys\n"
        "import eka.commands.store, eka_runtime.store.store, eka_runtime.store.messages\n"
        "import eka_runtime.rpc.address\n"
        "print('grpc' in sys.modules)\n"
    )
    assert printed == "False\n"
