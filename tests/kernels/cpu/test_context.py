"""The kernel of the context code against a reader in plain Python that was written from FORMAT.md alone."""

import numpy as np
import pytest

from nbquant.coding.context import LARGEST, decode, encode
from nbquant.coding.levels import Alphabet
from nbquant.kernels.cpu import context as kernel
from tests.storage.adaptive import levels


def matrix(rows, cols, scale, seed=0):
    generator = np.random.default_rng(seed)
    by_row, by_column = np.exp(generator.normal(0, 0.7, (rows, 1))), np.exp(generator.normal(0, 0.7, (1, cols)))
    return np.rint(generator.laplace(0, scale, (rows, cols)) * by_row * by_column).astype(np.int64)


@pytest.mark.parametrize("dependent", [False, True])
@pytest.mark.parametrize("shape", [(1, 1), (1, 70), (2, 33), (3, 16), (90, 17), (400, 5), (900, 1)])
@pytest.mark.parametrize("scale", [0.02, 0.3, 1.5, 9.0])
def test_plain_reader_finds_the_levels(shape, scale, dependent):
    level = matrix(*shape, scale)
    assert levels(encode(level, dependent), *shape, dependent) == level.tolist()


@pytest.mark.parametrize("dependent", [False, True])
def test_plain_reader_finds_levels_of_any_size(dependent):
    level = matrix(40, 20, 0.5)
    level[::7, ::3] = np.random.default_rng(0).integers(1 - LARGEST, LARGEST, level[::7, ::3].shape)
    assert levels(encode(level, dependent), 40, 20, dependent) == level.tolist()


def test_plain_reader_finds_what_mixing_weights_grow_on():
    """Long runs of equal levels: odds saturate and weights grow at every level."""
    level = np.zeros((6000, 1), np.int64)
    level[[2500, 5000]] = 3
    assert levels(encode(level), 6000, 1, False) == level.tolist()
    assert levels(encode(level + 1), 6000, 1, False) == (level + 1).tolist()


@pytest.mark.parametrize("kind", [np.int8, np.int16, np.int32, np.int64])
def test_bytes_do_not_depend_on_the_type_or_layout_of_levels(kind):
    level = matrix(50, 40, 0.8)
    assert encode(level.astype(kind)) == encode(np.asfortranarray(level)) == encode(level)


def test_no_room_gives_the_size():
    level = matrix(50, 40, 2.0).astype(np.int32)
    for room in (0, 1, 100):
        data = np.zeros(room, np.uint8)
        assert kernel.walk(level, data, False, False, kernel.initial_model()) == len(encode(level))
        assert data.tobytes() == encode(level)[:room]


def test_levels_whose_integers_are_beyond_32_bits_are_refused():
    """Twice the level is −4 modulo 2³²."""
    data = encode(np.array([[LARGEST - 2], [0]]), dependent=True)
    assert decode(data, 2, 1, True).tolist() == [[LARGEST - 2], [0]]
    with pytest.raises(ValueError, match="must be those of -4 to 0"):
        Alphabet(np.array([-4, 0]), False, dependent=True).decode(data, 2, 1)


def test_alphabets_beyond_32_bits():
    far = 1 << 40
    with pytest.raises(ValueError, match="smaller than 2,147,483,648, but go to 1,099,511,627,776"):
        Alphabet(np.array([far]), False).encode(np.array([0]), 1, 1)
    pruned = Alphabet(np.array([far]), True)
    assert pruned.decode(pruned.encode(np.array([-1]), 1, 1), 1, 1).tolist() == [-1]
