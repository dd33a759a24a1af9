#!/bin/bash
# nbformat 5.11.1, jsonschema 4.26.0 with rfc3987-syntax 1.1.0, lark 1.3.1, as jupyterlab installs them.
#
# A good guess: `import nbformat` reads a JSON schema or two and takes as long as `import jsonschema`, some hundredths of a
# second. Formats such as IRIs are looked at when something is validated with a format checker, which nbformat does not use.
#
# What happens: jsonschema imports every optional checker that is installed. rfc3987-syntax, which jupyter-events asks for,
# builds 39 Earley parsers with lark at import, one for each rule of the grammar: most of the time of `import nbformat`,
# in every Jupyter server and every process that reads a notebook.
#
# What nbquant does: nothing of it is imported by `import nbquant`.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/python" -m pip install --quiet --disable-pip-version-check \
    nbformat==5.11.1 'jsonschema[format-nongpl]==4.26.0' rfc3987-syntax==1.1.0 lark==1.3.1
"$folder/venv/bin/python" - <<'PYTHON'
import time
from importlib.metadata import version

import lark

print(*(f"{name} {version(name)}" for name in ("nbformat", "jsonschema", "rfc3987-syntax", "lark")))
made, before, begun = [], lark.Lark.__init__, time.process_time()


def counted(self, *arguments, **options):
    start = time.process_time()
    before(self, *arguments, **options)
    made.append(time.process_time() - start)


lark.Lark.__init__ = counted
import nbformat  # noqa: E402

whole = time.process_time() - begun
print(f"{len(made)} parsers made by `import nbformat`, {sum(made) / whole:.0%} of its {whole:.1f} s of CPU")
assert len(made) == 39, len(made)
PYTHON
# Seen:
# nbformat 5.11.1 jsonschema 4.26.0 rfc3987-syntax 1.1.0 lark 1.3.1
# 39 parsers made by `import nbformat`, 92% of its 1.8 s of CPU
