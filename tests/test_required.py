"""Every public verb, given what another takes: the error says what is required, what came and what to do."""

import pandas as pd
import pytest
import torch
from torch import nn

import nbquant as nq


@pytest.fixture(scope="module")
def things():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(4, 6), nn.ReLU(), nn.Linear(6, 3))
    batches = [(torch.randn(8, 4), torch.randint(3, (8,)))]
    selection = nq.select(model)
    return {
        "model": model,
        "batches": batches,
        "selection": selection,
        "quantized": nq.Uniform(0.1).fit(selection),
        "sensitivity": nq.sensitivity(model, batches, progress=False),
        "path": "model.nbq",
        "none": None,
        "number": 3,
    }


VERBS = {
    "fit": ("selection", lambda x, t: nq.fit(x, "uniform", ratio=6, progress=False)),
    "fit feedback": ("selection", lambda x, t: nq.fit(x, "feedback", ratio=6, progress=False)),
    "curves": ("selection", lambda x, t: nq.curves(x, progress=False)),
    "price": ("selection", lambda x, t: nq.price(x, {"s": t["sensitivity"]}, progress=False)),
    "rate_distortion_bound": ("statistics", lambda x, t: nq.rate_distortion_bound(x, progress=False)),
    "evaluate": ("model", lambda x, t: nq.evaluate(x, t["batches"], progress=False)),
    "evaluate, reference": (
        "model none",
        lambda x, t: nq.evaluate(t["model"], t["batches"], progress=False, reference=x),
    ),
    "calibrate": ("model", lambda x, t: nq.calibrate(x, t["batches"], progress=False)),
    "sensitivity": ("model", lambda x, t: nq.sensitivity(x, t["batches"], progress=False)),
    "prune": ("model", lambda x, t: nq.prune(x, 0.5, t["batches"], progress=False)),
    "finetune": ("quantized", lambda x, t: nq.finetune(x, t["model"], t["batches"], progress=False)),
    "finetune, model": ("model", lambda x, t: nq.finetune(t["quantized"], x, t["batches"], progress=False)),
    "ladder": ("quantized", lambda x, t: nq.ladder(x, t["selection"], progress=False)),
    "ladder, selection": ("selection", lambda x, t: nq.ladder(t["quantized"], x, progress=False)),
    "save": ("quantized", lambda x, t: nq.save(x, "model.nbq", progress=False)),
    "save, path": ("path", lambda x, t: nq.save(t["quantized"], x, progress=False)),
    "export": ("quantized", lambda x, t: nq.export(x, "model.gguf", progress=False)),
    "export, path": ("path", lambda x, t: nq.export(t["quantized"], x, progress=False)),
    "load": ("path", lambda x, t: nq.load(x)),
    "load_sensitivity": ("path", lambda x, t: nq.load_sensitivity(x)),
    "plot.histogram": ("quantized", lambda x, t: nq.plot.histogram(x, t["selection"])),
    "plot.histogram, selection": ("selection", lambda x, t: nq.plot.histogram(t["quantized"], x)),
    "plot.heatmap": ("selection", lambda x, t: nq.plot.heatmap(x, "0.weight")),
    "plot.error": ("quantized", lambda x, t: nq.plot.error(x, t["selection"], "0.weight")),
    "plot.error, selection": ("selection", lambda x, t: nq.plot.error(t["quantized"], x, "0.weight")),
    "plot.rate_distortion": ("selection", lambda x, t: nq.plot.rate_distortion(x, progress=False)),
    "plot.ladder": ("quantized", lambda x, t: nq.plot.ladder(x, t["selection"], progress=False)),
    "plot.decomposition": ("table", lambda x, t: nq.plot.decomposition(x)),
    "plot.divergence": ("table", lambda x, t: nq.plot.divergence(x)),
    "plot.price": ("price", lambda x, t: nq.plot.price(x)),
    "plot.ledger": ("ledgers sensitivity", lambda x, t: nq.plot.ledger(x)),
}


@pytest.mark.parametrize("verb", VERBS)
def test_another_type_is_told(verb, things):
    takes, run = VERBS[verb]
    for kind, value in things.items():
        if kind in takes.split() or kind == "batches":
            continue
        with pytest.raises(TypeError, match=r"(?s)(must be|required).*(came|is|got).*: ") as told:
            run(value, things)
        assert ("None" if value is None else type(value).__name__) in str(told.value), (kind, told.value)


def test_a_table_without_the_columns_is_told():
    with pytest.raises(ValueError, match="column"):
        nq.plot.divergence(pd.DataFrame({"method": ["ecsq"]}))
