"""The installed version of nbquant."""

from importlib.metadata import PackageNotFoundError, version


def _installed() -> str:
    try:
        return version("nbquant")
    except PackageNotFoundError:  # run from a checkout that was not installed
        return "0+unknown"


VERSION = _installed()
