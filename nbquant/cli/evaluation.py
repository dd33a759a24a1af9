"""Load what measures the accuracy of a quantized checkpoint: a bundled network, or an object from Python code."""

import importlib
import importlib.util
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import click

import nbquant as nq
from nbquant.models.zoo import NETWORKS
from nbquant.registry import nearest


def evaluation_of(text: str) -> Any:
    """Load what ``nq.fit(…, evaluate=…)`` takes.

    Args:
        text: Name of a bundled network, whose test set is used; or MODULE:NAME or FILE.py:NAME, where NAME is
            ``(model, batches)``, ``(model, batches, loss)``, or a function of a quantized result. The code is run.

    Raises:
        click.UsageError: Neither, a module that cannot be imported, or that lacks the name.
    """
    if text in NETWORKS:
        model, data = nq.zoo.load(text)
        return model, data.test
    source, colon, name = text.rpartition(":")
    if not colon or not source or not name:
        raise click.UsageError(
            f"--evaluate must be one of {', '.join(NETWORKS)}, MODULE:NAME or FILE.py:NAME, but is {text!r}"
            f"{nearest(text, list(NETWORKS))}"
        )
    module = _module(source)
    if not hasattr(module, name):
        known = [each for each in vars(module) if not each.startswith("_")]
        raise click.UsageError(f"--evaluate: {source} has no {name!r}{nearest(name, known)}")
    return getattr(module, name)


def _module(source: str) -> ModuleType:
    try:
        if not source.endswith(".py"):
            sys.path.insert(0, "")  # the current folder, as for python -m
            try:
                return importlib.import_module(source)
            finally:
                sys.path.remove("")
        spec = importlib.util.spec_from_file_location(Path(source).stem, source)
        assert spec is not None
        assert spec.loader is not None
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
    except (ImportError, OSError) as error:
        raise click.UsageError(f"--evaluate: {source} cannot be imported: {error}") from None
    return module
