"""Requests for bundles as tests make them; every part can be replaced."""

from __future__ import annotations

from typing import Any

from eka_runtime.nix.path import StorePath
from eka_runtime.oci.bundle import BundleRequest, Caller, Process, ShellFiles, ShellSource
from eka_runtime.oci.grants import Grants
from eka_runtime.oci.profile import load_profile
from eka_runtime.view.plan import ViewLink, ViewMount, ViewPlan

TREE = StorePath("0" * 32, "tree")
FILE = StorePath("1" * 32, "file")
LINK = StorePath("2" * 32, "link")
VIEW = ViewPlan(
    "bind",
    (ViewMount("/views/tree", str(TREE), True), ViewMount("/views/file", str(FILE), False)),
    (ViewLink(str(LINK), str(TREE)),),
)
ALICE = Caller(1234, 5678, "alice", "staff", "/home/alice")
SHELL = ShellFiles(ShellSource("host", "/usr/bin/busybox", "blake3-x"), ShellSource("store", "/x"))


def request(profile: str = "run", **changes: Any) -> BundleRequest:
    made = BundleRequest(
        profile=load_profile(profile),
        view=VIEW,
        closure=(TREE, FILE, LINK),
        process=Process(("/bin/sh",), (("PATH", "/bin"),), "/", False),
        grants=Grants(),
        caller=ALICE,
        shell=SHELL,
        annotations={"dev.eka.version": "1"},
    )
    return made._replace(**changes)
