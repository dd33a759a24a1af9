import builtins
from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image

from tests.benchmarks.imagenet import MEAN, STD, ImageFiles, image_files, read_image


def write_images(folder, classes=2, images=3, size=(300, 260)):
    for c in range(classes):
        (folder / f"n{c}").mkdir()
        for i in range(images):
            Image.new("RGB", size, (10 * c, i, 0)).save(folder / f"n{c}" / f"{i}.JPEG", quality=95)
    return folder


def test_classes_are_folders_in_alphabetical_order(tmp_path):
    files = image_files(write_images(tmp_path), classes=2)
    assert files.targets == (0, 0, 0, 1, 1, 1)
    assert [p.name for p in files.paths] == ["0.JPEG", "1.JPEG", "2.JPEG"] * 2


def test_batches_are_decoded_images(tmp_path):
    files = replace(image_files(write_images(tmp_path), classes=2), batch_size=4)
    batches = list(files)
    assert [tuple(x.shape) for x, _ in batches] == [(4, 3, 224, 224), (2, 3, 224, 224)]
    assert torch.cat([y for _, y in batches]).tolist() == [0, 0, 0, 1, 1, 1]
    assert len(files) == 2
    assert files.samples == 6


@pytest.mark.parametrize(("height", "width", "top", "left"), [(256, 280, 16, 28), (279, 256, 28, 16)])
def test_middle_of_an_image_by_hand(tmp_path, height, width, top, left):
    noise = np.random.default_rng(0).integers(0, 256, (height, width, 3), dtype=np.uint8)
    Image.fromarray(noise).save(tmp_path / "a.png")
    middle = noise[top : top + 224, left : left + 224] / 255
    expected = torch.from_numpy(((middle - MEAN) / STD).transpose(2, 0, 1)).float()
    torch.testing.assert_close(read_image(tmp_path / "a.png"), expected)


def test_short_side_is_scaled(tmp_path):
    # Left half black, right half white: after scaling by 1/2 and cropping the edge is in the middle still.
    image = Image.new("RGB", (700, 512))
    image.paste((255, 255, 255), (350, 0, 700, 512))
    image.save(tmp_path / "a.png")
    red = read_image(tmp_path / "a.png")[0] * STD[0] + MEAN[0]
    assert red.shape == (224, 224)
    assert float(red[:, :110].abs().max()) < 1e-6
    assert float((red[:, 114:] - 1).abs().max()) < 1e-6


@pytest.mark.parametrize("mode", ["L", "RGBA", "CMYK"])
def test_other_colours_become_rgb(tmp_path, mode):
    path = tmp_path / ("a.jpg" if mode == "CMYK" else "a.png")
    Image.new(mode, (100, 120)).save(path)
    assert read_image(path).shape == (3, 224, 224)


def test_parts_share_nothing_and_are_spread():
    files = ImageFiles(tuple(map(str, range(10))), tuple(range(10)))
    parts = [files.every(3, first).targets for first in range(3)]
    assert parts == [(0, 3, 6, 9), (1, 4, 7), (2, 5, 8)]
    assert files.spread(4).targets == (0, 3, 6, 9)
    assert files.spread(11) is files


def test_damage_is_refused(tmp_path):
    write_images(tmp_path)
    with pytest.raises(ValueError, match="must hold 1,000 folders, one a class, but holds 2"):
        image_files(tmp_path)
    (tmp_path / "n2").mkdir()
    with pytest.raises(ValueError, match="1 hold none, first 'n2'"):
        image_files(tmp_path, classes=3)
    with pytest.raises(FileNotFoundError, match="is none"):
        image_files(tmp_path / "no", classes=3)
    whole = (tmp_path / "n0" / "0.JPEG").read_bytes()
    for content in (b"no image", whole[: len(whole) // 2]):
        (tmp_path / "bad.jpg").write_bytes(content)
        with pytest.raises(ValueError, match="must be a whole image"):
            read_image(tmp_path / "bad.jpg")
    with pytest.raises(FileNotFoundError):
        read_image(tmp_path / "none.jpg")


def test_without_pillow_says_what_to_install(tmp_path, monkeypatch):
    found = builtins.__import__
    monkeypatch.setattr(
        builtins,
        "__import__",
        lambda name, *rest: (_ for _ in ()).throw(ModuleNotFoundError()) if name == "PIL" else found(name, *rest),
    )
    with pytest.raises(ModuleNotFoundError, match="pip install pillow"):
        read_image(tmp_path / "a.jpg")
