"""`eka verify`: recomputes what a publication or a lock claims, and says what does not hold."""

from __future__ import annotations

from pathlib import Path

import click

from eka.completing import directories
from eka.context import Context


@click.command()
@click.argument("targets", metavar="URI|PATH...", nargs=-1, shell_complete=directories)
@click.option(
    "-a", "--all", "all_", is_flag=True, help="All versions of URI; all atoms of this set."
)
@click.pass_obj
def command(context: Context, targets: tuple[str, ...], all_: bool) -> None:
    """Verify atoms: published ones by URI, or one here (by default `.`) with all it locks.

    Of a publication its commit, tree, origin, genesis and manifest are recomputed, the highest
    version that matches. Of an atom here also ids, mirrors, hashes and tags. Prints one line per
    problem, with `-v` every check; fails if anything is wrong.
    """
    from eka_runtime.errors import AtomMismatch

    findings = _Findings(context)
    for target in targets or (("::" if all_ else "."),):
        if "::" in target and not target.startswith("::"):
            _publications(context, target, findings, all_=all_)
        else:
            _atoms(context, target, findings, all_=all_)
    if findings.wrong:
        more = f" (and {findings.wrong - 1} more)" if findings.wrong > 1 else ""
        raise AtomMismatch(f"{findings.first}{more}", hint="do not use it before this is explained")
    words = f"{findings.right} checks hold"
    if findings.unknown:
        words += f", {findings.unknown} could not be made"
    context.output.message(words)


class _Findings:
    """Prints findings as they come, and counts them."""

    def __init__(self, context: Context) -> None:
        self._context = context
        self.right = self.wrong = self.unknown = 0
        self.first = ""

    def __call__(self, finding: object) -> None:
        from eka.atom.verify import Finding

        assert isinstance(finding, Finding)
        line = f"{finding.subject}: {finding.message}"
        self.right += finding.ok is True
        self.unknown += finding.ok is None
        self.wrong += finding.ok is False
        if finding.ok is False:
            self.first = self.first or line
        self._print(finding._asdict(), finding.ok, line, f"{finding.subject}: {finding.check}")

    def _print(self, data: dict[str, object], ok: bool | None, line: str, passed: str) -> None:
        output = self._context.output
        if self._context.json:
            output.json(data)
        elif ok is None:
            output.warning(f"not verified: {line}")
        elif ok:
            output.detail(f"ok: {passed}")
        else:
            output.data(line)


def _publications(context: Context, target: str, findings: _Findings, *, all_: bool) -> None:
    from eka.atom.remote import list_set
    from eka.atom.uri import parse_uri
    from eka.atom.verify import (
        Finding,
        publications,
        remembered,
        scratch,
        verify_genesis,
        verify_publication,
    )
    from eka.atom.version import ANY, sort_key
    from eka.commands.atom_workspace import atom_settings
    from eka_runtime.errors import GitError, ResolveError

    settings = atom_settings()
    uri = parse_uri(target, settings.aliases)
    if context.offline:
        raise GitError(f"`{uri}` cannot be verified offline", hint="run it without `--offline`")
    place, here = str(uri.url), Path.cwd()
    listing = list_set(place, here)
    wanted = uri.requirement or ANY
    offers = listing.atoms.get(uri.label, {})
    versions = sorted(filter(wanted.matches, offers), key=sort_key)
    if uri.requirement is None and not versions:
        versions = sorted(offers, key=sort_key)
    if not versions:
        raise ResolveError(f"`{place}` has no such atom: `{uri}`", hint=f"see `eka list {place}`")
    chosen = publications(place, listing, uri.label, versions if all_ else versions[-1:])
    with scratch() as repository:
        verify_genesis(repository, place, listing.genesis, here, findings)
        for publication in chosen:
            known = remembered(settings.cache, publication)
            if known not in (None, publication.rev):
                said = f"its ref is {publication.rev}, but it was {known} when it was fetched here"
                findings(Finding(publication.name, "remembered", False, said))
            verify_publication(repository, publication, here, findings)


def _atoms(context: Context, target: str, findings: _Findings, *, all_: bool) -> None:
    from eka.atom.verify_lock import LockVerifier
    from eka.atom.workspace import atom_directory
    from eka.commands.atom_workspace import atom_settings, open_workspace

    local = open_workspace(context, Path.cwd()).local
    if all_:
        places = [local.root / member.path for member in local.members.values()]
    else:
        places = [atom_directory(target, local)]
    verifier = LockVerifier(local, atom_settings().cache, findings, offline=context.offline)
    for place in places:
        verifier.verify(place)
