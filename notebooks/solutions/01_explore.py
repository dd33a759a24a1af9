"""Solutions of notebook 01."""

import nbquant as nq

model, data = nq.zoo.load("lenet5-fashion")
selection = nq.select(model)
levels = max(k for k in range(2, 20) if nq.KMeans(k, weighted=False).fit(selection).rate <= 3)

h = nq.sensitivity(model, data.calibration, damping=0.1, progress=False)
fc1 = nq.fit(nq.select(model, sensitivity=h, layers="fc1"), "uniform", ratio=20, progress=False)

pruned, _ = nq.zoo.load("lenet5-fashion-pruned")
q = nq.fit(nq.select(pruned), "uniform", ratio=45, progress=False)
halved = q.source_bits / (q.ledger.total - q.ledger["payload"] / 2)

VERDICTS = [
    nq.course.check("01.1", levels),
    nq.course.check("01.2", fc1),
    nq.course.check("01.3", halved),
]
