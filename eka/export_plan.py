"""`eka export --plan`: the layers, lowest first, and what other targets would share of them."""

from __future__ import annotations

from eka.export_session import Session
from eka.output import Output, human_size, table
from eka_runtime.oci.image_layers import Closure, Layer, plan_layers, sharing


def show_plan(session: Session) -> None:
    closures = [closure for _, closure in session.beside]
    infos = session.export.infos
    layers = plan_layers(infos, session.maximum, closures)
    output = session.output
    if output.json_mode:
        for layer in layers:
            output.json({"size": layer.size, "paths": [str(path) for path in layer.paths]})
    else:
        rows = [(human_size(layer.size), str(len(layer.paths)), _shown(layer)) for layer in layers]
        for line in table(rows, ("SIZE", "PATHS", "LAYER")):
            output.data(line)
    for number, (target, closure) in enumerate(session.beside):
        others = [infos, *(one for k, one in enumerate(closures) if k != number)]
        theirs = plan_layers(closure, session.maximum, others)
        _show_sharing(output, target, layers, theirs, infos)


def _show_sharing(
    output: Output, target: str, ours: list[Layer], theirs: list[Layer], infos: Closure
) -> None:
    sizes = {path: info.nar_size for path, info in infos.items()}
    found = sharing(ours, theirs, sizes)
    if output.json_mode:
        output.json({"with": target, "common": found.common, "shared": found.shared})
        return
    output.data(
        f"with {target}: {human_size(found.common)} in common, "
        f"{human_size(found.shared)} ({found.ratio:.0%}) in layers that both have"
    )


def _shown(layer: Layer) -> str:
    first = layer.paths[-1].base
    return first if len(layer.paths) == 1 else f"{first} and {len(layer.paths) - 1} more"
