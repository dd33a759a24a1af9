#!/bin/bash
# distributed 2026.8.0: LocalCluster(dashboard_address=None).
#
# A good guess: as its documentation says, None disables the dashboard, so that nothing listens on its port 8787; two such
# clusters on a machine have nothing to do with each other.
#
# What happens: the scheduler's HTTP server listens on port 8787 all the same. A second cluster finds the port taken, warns,
# and takes another one. Where warnings are errors, it does not start. "127.0.0.1:0" takes any free port.
#
# What nbquant does: its tests and benchmarks pass "127.0.0.1:0", as pytest turns warnings into errors.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/python" -m pip install --quiet --disable-pip-version-check distributed==2026.8.0 dask==2026.8.0
cat > "$folder/run.py" <<'PYTHON'
import socket
import warnings

import distributed


def cluster(address):
    return distributed.LocalCluster(n_workers=1, threads_per_worker=1, host="127.0.0.1", dashboard_address=address)


def is_taken():
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", 8787)) == 0


if __name__ == "__main__":
    print("distributed", distributed.__version__)
    assert not is_taken(), "port 8787 is in use already: end what listens there"
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        with cluster("127.0.0.1:0"):
            free = is_taken()
        with cluster(None):
            first = is_taken()
            with cluster(None):
                pass
    said = [str(each.message).splitlines()[0] for each in told if "8787" in str(each.message)]
    print('port 8787 with "127.0.0.1:0":', "taken" if free else "free")
    print("port 8787 with None:", "taken" if first else "free")
    print("a second one with None:", said)
    assert (free, first, len(said)) == (False, True, 1)
PYTHON
"$folder/venv/bin/python" "$folder/run.py"
# Seen:
# distributed 2026.8.0
# port 8787 with "127.0.0.1:0": free
# port 8787 with None: taken
# a second one with None: ['Port 8787 is already in use.']
