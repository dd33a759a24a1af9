"""The command line: nbquant quantize | inspect | decompress | explore | export | app, each in a module of its own."""

import io
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from importlib import import_module
from typing import Any

import click

from nbquant.cli.terminal import say
from nbquant.plain_text import plainly
from nbquant.storage.errors import CorruptFileError
from nbquant.version import VERSION

FAILED, USAGE, DAMAGED, INTERRUPTED = 1, 2, 3, 130
ABOUT = {
    "quantize": "Quantize a checkpoint into a .nbq file.",
    "inspect": "Show what a quantized file holds: .nbq, .gguf, .onnx, .mlpackage, .safetensors.",
    "decompress": "Restore a .nbq file to a safetensors file.",
    "explore": "Open the explorer in JupyterLab.",
    "export": "Write the explorer as a page that needs no kernel.",
    "app": "Serve the explorer as a page without code.",
}


class _Command(click.Command):
    """A command that is imported when it runs, so that none waits for what another needs."""

    def make_context(self, info_name: str | None, args: list[str], *more: Any, **options: Any) -> click.Context:
        command: click.Command = getattr(import_module(f"{__name__}.{self.name}"), str(self.name))
        return command.make_context(info_name, args, *more, **options)


@click.group(
    commands=[_Command(name, short_help=about) for name, about in ABOUT.items()],
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110},
    epilog=f"""Exit codes: 0 done, {FAILED} could not be done (the message says why), {USAGE} wrong usage, {DAMAGED}
    a damaged .nbq file, {INTERRUPTED} interrupted. Progress shows on a terminal only. For completion put
    eval "$(_NBQUANT_COMPLETE=bash_source nbquant)" into ~/.bashrc (zsh_source, fish_source: those shells).""",
)
@click.version_option(VERSION)
def commands() -> None:
    """Quantize, inspect and restore the weights of neural networks."""


def main() -> None:
    """Run the command of the arguments, and exit with its code."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors=plainly)
    with _exit_codes():
        sys.exit(commands(standalone_mode=False, prog_name="nbquant"))


@contextmanager
def _exit_codes() -> Iterator[None]:
    """Report known errors in one line with an exit code; other exceptions are our bugs and keep their traceback."""
    try:
        yield
    except click.ClickException as error:
        error.show(sys.stderr)
        sys.exit(error.exit_code)
    except (click.Abort, KeyboardInterrupt):
        _fail("interrupted; nothing was written", INTERRUPTED)
    except CorruptFileError as error:
        _fail(str(error), DAMAGED)
    except OSError as error:
        # Our messages are complete; the system's name the file only beside the number.
        _fail(error.strerror if error.strerror and error.filename is None else str(error), FAILED)
    except ValueError as error:
        _fail(str(error), FAILED)
    except MemoryError:
        _fail("there is not enough memory for it: close other programs, or choose fewer layers.", FAILED)


def _fail(message: str, code: int) -> None:
    say(f"Error: {message}", sys.stderr)
    sys.exit(code)
