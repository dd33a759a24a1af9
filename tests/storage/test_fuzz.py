"""The reader put to damaged files: those that it ever failed at, and a sample of new ones; `make fuzz` reads more."""

import subprocess
import sys
from pathlib import Path

import pytest

from tests.storage import mutations, seeds
from tests.storage.examine import FindingError, examine

ROOT = Path(__file__).parents[2]
CORPUS = Path(__file__).parent / "corpus"
COUNT = 400  # `make fuzz` reads 100,000
MOST_SECONDS = 840  # for a machine that does other things as well


@pytest.mark.parametrize("name", seeds.names())
def test_what_the_mutations_start_from(tmp_path, name):
    with seeds.block_size(name):
        examine(seeds.FOLDER / f"{name}.nbq", tmp_path)  # what is imported and compiled on the way takes memory too
        outcome = examine(seeds.FOLDER / f"{name}.nbq", tmp_path, traced=True)
    assert outcome == ("part" if name == "nothing" else "restored")


@pytest.mark.parametrize("name", sorted(path.name for path in CORPUS.glob("*.nbq")))
def test_files_that_the_reader_once_failed_at(tmp_path, name):
    with seeds.block_size(name):
        examine(CORPUS / name, tmp_path)


@pytest.mark.timeout(900)
def test_a_sample_of_damaged_files(tmp_path):
    """In a process of its own, so that its end is a failure; what it ended at is in the folder."""
    folder = tmp_path / "failed"
    command = [sys.executable, "-m", "tests.storage.mutations", f"--count={COUNT}", f"--folder={folder}"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=MOST_SECONDS)
    assert done.returncode == 0, (done.stdout + done.stderr)[-3000:]
    assert done.stdout.startswith(f"{COUNT} files, 0 failed")
    assert not list(folder.iterdir())


def test_a_mutant_is_known_by_its_number():
    found = [mutations.mutant(3, number) for number in range(200)]
    assert found == [mutations.mutant(3, number) for number in range(200)]
    assert len({mutant.data for mutant in found}) > 190
    assert {mutant.how for mutant in found} == {"raw", "bytes", "header", "content"}


def test_a_file_of_other_content_than_said_is_a_finding(tmp_path, monkeypatch):
    from nbquant.storage import stored

    monkeypatch.setattr(stored.Stored, "source_bits", 8)
    with pytest.raises(FindingError, match="other source_bits"):
        examine(seeds.FOLDER / "dense.nbq", tmp_path)
