"""What holds for every test."""

import os

import hypothesis

# No test opens a window, and none is judged by how long it took: the machine may be busy.
os.environ.setdefault("MPLBACKEND", "Agg")
# None reads or fills the user's own cache.
os.environ["NBQUANT_CACHE"] = ""
hypothesis.settings.register_profile("nbquant", deadline=None, print_blob=True)
# In CI the same examples every time, so that a red run can be told from bad luck.
hypothesis.settings.register_profile("ci", hypothesis.settings.get_profile("nbquant"), derandomize=True, database=None)
hypothesis.settings.load_profile("ci" if os.environ.get("CI") == "true" else "nbquant")
