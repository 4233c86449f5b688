"""Plans of layers: complete, bounded, determined by the closure, and good for sharing."""

from __future__ import annotations

import random

import pytest

from eka_runtime.errors import UsageError
from eka_runtime.oci.image_layers import Closure, Layer, plan_layers, sharing
from tests.unit.oci.closures import closure_of, two_of, universe


def shared(one: Closure, other: Closure, maximum: int = 100, *, together: bool = False) -> float:
    first = plan_layers(one, maximum, [other] if together else [])
    second = plan_layers(other, maximum, [one] if together else [])
    assert max(len(first), len(second)) <= maximum
    sizes = {path: info.nar_size for path, info in one.items()}
    return sharing(first, second, sizes).ratio


@pytest.mark.parametrize("maximum", [1, 2, 7, 100, 1000])
def test_every_path_is_in_one_layer(maximum: int) -> None:
    infos = universe(1, 300)
    layers = plan_layers(infos, maximum)
    assert sorted(path for layer in layers for path in layer.paths) == sorted(infos)
    assert len(layers) <= maximum
    assert sum(layer.size for layer in layers) == sum(info.nar_size for info in infos.values())


def test_the_order_of_the_closure_does_not_matter() -> None:
    infos = universe(2, 300)
    shuffled = list(infos.items())
    random.Random(3).shuffle(shuffled)
    assert plan_layers(dict(shuffled)) == plan_layers(infos)


def test_few_paths_get_a_layer_each_and_what_they_need_comes_first() -> None:
    infos = universe(4, 40)
    layers = plan_layers(infos)
    place = {layer.paths[0]: number for number, layer in enumerate(layers)}
    assert len(place) == 40
    for path, info in infos.items():
        assert all(place[reference] < place[path] for reference in info.references)


@pytest.mark.parametrize(("roots", "least"), [(2, 0.97), (8, 0.93), (20, 0.90)])
def test_images_that_have_most_in_common_share_it(roots: int, least: float) -> None:
    ratios = [shared(*two_of(seed, roots)) for seed in range(4)]
    assert sum(ratios) / len(ratios) >= least
    assert min(ratios) >= 0.85


@pytest.mark.parametrize("maximum", [3, 20, 100])
def test_what_is_planned_together_shares_everything(maximum: int) -> None:
    for seed in range(3):
        assert shared(*two_of(seed, 30), maximum, together=True) == 1.0


def test_three_closures_planned_together_agree_in_any_order() -> None:
    infos = universe(5, 600)
    chance = random.Random(5)
    a, b, c = (closure_of(infos, chance.sample(sorted(infos), 5)) for _ in range(3))
    assert plan_layers(a, 60, [b, c]) == plan_layers(a, 60, [c, b])
    of_a, of_b = plan_layers(a, 60, [b, c]), plan_layers(b, 60, [c, a])
    assert sharing(of_a, of_b, {p: i.nar_size for p, i in a.items()}).ratio == 1.0


def test_too_few_layers_are_refused() -> None:
    infos = universe(6, 10)
    with pytest.raises(UsageError, match="fewer than 1"):
        plan_layers(infos, 0)
    one, other = two_of(0, 5)
    with pytest.raises(UsageError, match="fewer than 2"):
        plan_layers(one, 1, [other])


def test_nothing_in_common_is_shared_fully() -> None:
    infos = universe(7, 2)
    one, other = ([Layer((path,), 1)] for path in infos)
    assert sharing(one, other, {}).ratio == 1.0
