"""Windows of text, and what of the documentation becomes text."""

import gzip

import pytest
import torch

from nbquant.models import python_docs
from nbquant.models.python_docs import VOCABULARY, WINDOW, bundled, characters, load, write_bundle


def write_sources(folder, files=40, words="word {number} of the text. "):
    """So many files of five parts; each names its number, over and over."""
    for number in range(files):
        part = python_docs.PARTS[number * len(python_docs.PARTS) // files]
        (folder / part).mkdir(parents=True, exist_ok=True)
        (folder / part / f"{number:03}.rst.txt").write_text(words.format(number=number) * 40, encoding="utf-8")
    return folder


def text_of(batches):
    return "".join(map(chr, batches.inputs.flatten().tolist()))


def test_targets_are_the_characters_that_follow(tmp_path):
    data = load(write_sources(tmp_path))
    for batches in (data.train, data.test, data.calibration):
        assert batches.inputs.shape == batches.targets.shape == (batches.samples, WINDOW)
        assert batches.inputs.dtype == torch.int64
        assert torch.equal(batches.inputs.flatten()[1:], batches.targets.flatten()[:-1])
    assert torch.equal(data.calibration.inputs, data.train.inputs[: data.calibration.samples])


@pytest.mark.parametrize(("length", "windows"), [(WINDOW + 1, 1), (2 * WINDOW, 1), (2 * WINDOW + 1, 2)])
def test_windows_need_the_character_after_them(length, windows):
    text = torch.arange(length, dtype=torch.uint8)
    found = python_docs._windows(text)
    assert found.samples == windows
    assert int(found.targets[-1, -1]) == (windows * WINDOW) % 256


def test_every_twentieth_file_is_held_out_whole(tmp_path):
    data = load(write_sources(tmp_path))
    test, train = text_of(data.test), text_of(data.train)
    assert {number for number in range(40) if f"word {number} " in test} == {10, 30}
    assert {number for number in range(40) if f"word {number} " in train} == set(range(40)) - {10, 30}


def test_names_and_addresses_of_people_are_left_out(tmp_path):
    words = (
        "\n.. sectionauthor:: Ada Example <ada@example.com>\n  .. moduleauthor:: Bob Example\n.. codeauthor:: Eve\n"
        "Write to first.last+tag@mail.some-host.co.uk, not to x@y. Authors are {number}.\n"
    )
    data = load(write_sources(tmp_path, words=words))
    found = text_of(data.train) + text_of(data.test)
    for gone in ("Ada", "Bob", "Eve", "author::", "first.last", "some-host"):
        assert gone not in found
    assert "Write to someone@example.org, not to x@y. Authors are 1.\n" in found


def test_other_characters_become_question_marks():
    assert bytes(characters("Gödel – π\n")) == b"G?del ? ?\n"
    assert int(characters("\x7f").max()) < VOCABULARY


def test_bundle_round_trip(tmp_path, monkeypatch):
    sources, out = write_sources(tmp_path / "sources"), tmp_path / "out"
    out.mkdir()
    write_bundle(out, sources, pieces=4, length=3 * WINDOW)
    assert sorted(path.name for path in out.iterdir()) == ["python-docs-test.txt.gz", "python-docs-train.txt.gz"]
    assert all(path.read_bytes()[4:8] == bytes(4) for path in out.iterdir()), "no time in them"
    whole = load(sources)
    monkeypatch.setattr(python_docs, "BUNDLED_FOLDER", out)
    part = bundled.__wrapped__()
    assert torch.equal(part.test.inputs, whole.test.inputs)
    assert text_of(part.train)[: 3 * WINDOW] == text_of(whole.train)[: 3 * WINDOW]
    assert part.train.samples == 11  # 12 windows, of which the last has nothing after it
    quarter = len(python_docs._texts(sources)[0]) // 4
    assert text_of(part.train)[3 * WINDOW :][:WINDOW] in text_of(whole.train)[quarter - WINDOW : quarter + WINDOW]


def test_bundled_slice_is_whole_and_names_nobody():
    data = bundled()
    assert (data.calibration.samples, data.train.samples, data.test.samples) == (256, 4095, 3305)
    assert bundled() is data
    text = text_of(data.train) + text_of(data.test)
    assert "author::" not in text
    assert set(python_docs._ADDRESS.sub("", text)) <= set(map(chr, range(128)))
    assert {found.group() for found in python_docs._ADDRESS.finditer(text)} <= {"someone@example.org"}
    assert "Python Software Foundation" in (python_docs.BUNDLED_FOLDER / "LICENSE-python-docs").read_text()


def test_held_out_text_is_no_part_of_the_training_text():
    """A window of the test text that occurs in training is boilerplate, so that there are few of them."""
    data = bundled()
    train = text_of(data.train)
    some = data.test.inputs[::10]
    found = sum("".join(map(chr, row.tolist())) in train for row in some)
    assert found <= 0.01 * len(some)


def test_load_takes_a_folder_then_the_variable_then_debians(tmp_path, monkeypatch):
    for name, files in (("given", 20), ("variable", 40), ("debian", 60)):
        write_sources(tmp_path / name, files, words="same length. ")
    monkeypatch.setattr(python_docs, "DEBIAN_FOLDER", tmp_path / "debian")
    monkeypatch.setenv(python_docs.FOLDER_VARIABLE, str(tmp_path / "variable"))
    sizes = [load(folder).test.samples for folder in (str(tmp_path / "given"), None)]
    monkeypatch.delenv(python_docs.FOLDER_VARIABLE)
    sizes.append(load().test.samples)
    assert sizes == sorted(set(sizes))


def test_missing_sources_say_how_to_get_them(tmp_path, monkeypatch):
    monkeypatch.delenv(python_docs.FOLDER_VARIABLE, raising=False)
    monkeypatch.setattr(python_docs, "DEBIAN_FOLDER", tmp_path / "none")
    with pytest.raises(FileNotFoundError, match=r"none in the folders tutorial, .* of .*none: .*python3\.11-doc"):
        load()
    with pytest.raises(FileNotFoundError, match=f"environment variable {python_docs.FOLDER_VARIABLE}"):
        load(tmp_path)


@pytest.mark.parametrize(("files", "length", "came"), [(5, 100, "test text has 0"), (20, 4, "test text has 128")])
def test_too_little_text_is_refused(tmp_path, files, length, came):
    """Of five files none is for testing; and a window needs the character after it."""
    for number in range(files):
        (tmp_path / "faq").mkdir(exist_ok=True)
        (tmp_path / "faq" / f"{number:02}.rst.txt").write_text("x" * 32 * length)
    with pytest.raises(ValueError, match=rf"at least 129 characters are required, but the {came}: .*more sources"):
        load(tmp_path)


DAMAGED = {
    "cut": lambda packed: packed[:-12],
    "no gzip": lambda packed: b"PK" + packed[2:],
    "another content": lambda packed: packed[:10] + b"\xff" + packed[11:],
}


@pytest.mark.parametrize("how", DAMAGED)
def test_damaged_bundle_is_refused(tmp_path, how):
    path = tmp_path / "python-docs-train.txt.gz"
    path.write_bytes(DAMAGED[how](gzip.compress(b"some text " * 50)))
    with pytest.raises(ValueError, match=r"python-docs-train\.txt\.gz must be a whole gzip file, but: .*again"):
        python_docs._unpacked(path)


def test_a_small_file_that_unpacks_to_much_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(python_docs, "_MOST_BYTES", 1000)
    path = tmp_path / "python-docs-test.txt.gz"
    path.write_bytes(gzip.compress(b"a" * 1000))
    assert len(python_docs._unpacked(path)) == 1000
    path.write_bytes(gzip.compress(b"a" * 1001))
    with pytest.raises(ValueError, match="must hold at most 1,000 bytes, but holds more: install the package again"):
        python_docs._unpacked(path)
