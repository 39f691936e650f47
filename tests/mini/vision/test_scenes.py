import itertools
import random

import numpy as np
import pytest

from excitor.mini.vision.digits import TRAINED, jitter, load_digits
from excitor.mini.vision.drawing import SIZE, draw_scene
from excitor.mini.vision.scenes import COLOURS, SHAPES, Group, Pair, Thing, all_scenes, split_scenes, things


RED_RING, BLUE_CROSS = Thing("red", "ring"), Thing("blue", "cross")


def pixels(scene, seed=0) -> np.ndarray:
    return np.asarray(draw_scene(scene, random.Random(seed))).astype(int)


def places_of(colour: int, other: int, picture: np.ndarray) -> tuple[float, float]:
    """Mean row and column of where one of the three parts of a colour is much stronger than another."""
    rows, columns = np.nonzero(picture[..., colour] - picture[..., other] > 60)
    return rows.mean(), columns.mean()


def test_every_combination_is_there_once():
    scenes = all_scenes()
    assert len(scenes) == len(set(scenes)) == 4 * 30 + 2 * 30 * 29


@pytest.mark.parametrize("seed", [0, 1])
def test_a_split_hides_combinations_and_things(seed):
    split = split_scenes(seed)
    parts = [set(split.seen), set(split.unseen), set(split.unseen_things)]
    assert set.union(*parts) == set(all_scenes())
    assert sum(map(len, parts)) == len(all_scenes())
    taught = {thing for scene in split.seen for thing in things(scene)}
    assert {thing for scene in split.unseen for thing in things(scene)} <= taught
    assert all(set(things(scene)) - taught for scene in split.unseen_things)
    # What is hidden are combinations: every colour and every shape is taught.
    assert {thing.colour for thing in taught} == set(COLOURS)
    assert {thing.shape for thing in taught} == set(SHAPES)
    assert split == split_scenes(seed)
    assert split != split_scenes(seed + 1)


def test_a_drawing_depends_on_its_seed_alone():
    scene = Pair(RED_RING, "left", BLUE_CROSS)
    assert pixels(scene).shape == (SIZE, SIZE, 3)
    assert (pixels(scene) == pixels(scene)).all()
    assert (pixels(scene) != pixels(scene, seed=1)).any()


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("relation", ["left", "above"])
def test_things_are_drawn_where_the_relation_says(relation, seed):
    picture = pixels(Pair(RED_RING, relation, BLUE_CROSS), seed)
    red, blue = places_of(0, 2, picture), places_of(2, 0, picture)
    axis = 1 if relation == "left" else 0
    assert red[axis] + 8 < blue[axis]
    assert blue[axis] - red[axis] > abs(blue[1 - axis] - red[1 - axis])


def test_a_group_has_as_many_things_as_it_says():
    areas = [(pixels(Group(count, Thing("red", "square")), seed=3)[..., 0] > 150).sum() for count in range(1, 5)]
    for before, after in itertools.pairwise(areas):
        assert after > before + 40


def test_the_digits_are_pictures_of_the_same_size():
    pictures, digits = load_digits()
    assert len(pictures) == len(digits) == 1797 > TRAINED
    assert {picture.size for picture in pictures} == {(SIZE, SIZE)}
    assert {picture.mode for picture in pictures} == {"RGB"}
    assert set(digits[TRAINED:]) == set(range(10))
    moved = jitter(pictures[0], random.Random(0))
    assert moved.size == (SIZE, SIZE)
    assert (np.asarray(moved) != np.asarray(pictures[0])).any()
