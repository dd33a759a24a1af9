"""The reader put to damaged files: those that it ever failed at, and 10,000 new ones."""

import subprocess
import sys
from pathlib import Path

import pytest

from tests.storage import mutations, seeds
from tests.storage.examine import FindingError, examine

ROOT = Path(__file__).parents[2]
CORPUS = Path(__file__).parent / "corpus"
EACH = 5000
PROCESSES = 2
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
def test_ten_thousand_damaged_files(tmp_path):
    """In processes of their own, so that the end of one is a failure; what it ended at is in the folder."""
    started = []
    for i in range(PROCESSES):
        command = [sys.executable, "-m", "tests.storage.mutations", f"--first={i * EACH}", f"--count={EACH}"]
        log = (tmp_path / f"{i}.log").open("w")
        with log:
            process = subprocess.Popen(
                [*command, f"--folder={tmp_path / str(i)}"], cwd=ROOT, stdout=log, stderr=subprocess.STDOUT
            )
        started.append(process)
    try:
        codes = [process.wait(MOST_SECONDS) for process in started]
    finally:
        for process in started:
            process.kill()
            process.wait()
    said = [(tmp_path / f"{i}.log").read_text() for i in range(PROCESSES)]
    assert codes == [0] * PROCESSES, "\n".join(text[-3000:] for text in said)
    assert not [left for i in range(PROCESSES) for left in (tmp_path / str(i)).iterdir()]
    assert all(text.startswith(f"{EACH} files, 0 failed") for text in said), said


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
