"""Processes that are forked after their parent has used its threads, as by a sweep or a data loader."""

import multiprocessing
import subprocess
import sys

import pytest

if "fork" not in multiprocessing.get_all_start_methods():
    pytest.skip("this system has no fork", allow_module_level=True)

BEGIN = """
import multiprocessing, sys, threading
import torch
from torch import nn
import nbquant as nq
from nbquant.analysis import statistics
from nbquant.kernels import compiled, dispatch

dispatch.THREADS = 2
torch.set_num_threads(2)

def fitted(seed):
    weight = torch.randn(600_000, generator=torch.Generator().manual_seed(seed))
    return nq.KMeans(levels=4).fit(weight).distortion, nq.ECSQ(lmbda=1e-3).fit(weight).rate

def weighed(seed):
    torch.manual_seed(seed)
    model = nn.Sequential(nn.Linear(300, 300), nn.ReLU(), nn.Linear(300, 5))
    h = nq.sensitivity(model, [(torch.randn(256, 300), torch.arange(256) % 5)], progress=False)
    return float(h["0.weight"].double().sum()), nq.fit(nq.select(model, h), ratio=8.0, progress=False).rate
"""
POOL = """
works = (fitted, weighed)
here = [[work(seed) for seed in (1, 2)] for work in works]
pool = multiprocessing.get_context("fork").Pool(2)
there = [pool.map_async(work, [1, 2]).get({patience}) for work in works]
pool.terminate()
for a, b in zip(sum(here, []), sum(there, [])):
    assert all(abs(x / y - 1) < 1e-5 for x, y in zip(a, b)), (a, b)
"""
LOCKED = """
fitted(1)
recent = statistics._tensors
begun, done = threading.Event(), threading.Event()

def hold():
    with recent._lock, compiled._lock:
        begun.set()
        done.wait()

def work(queue):
    compiled._said.add("known")
    compiled.say_once("known")
    recent.keep("key", None)
    queue.put(recent.get("key"))

thread = threading.Thread(target=hold)
thread.start()
begun.wait()
context = multiprocessing.get_context("fork")
queue = context.SimpleQueue()
child = context.Process(target=work, args=(queue,))
child.start()
child.join({patience})
answered = child.exitcode == 0
child.kill()
done.set()
thread.join()
assert answered
"""
PATIENCE = 60  # seconds until a process that gives no answer is given up


def run(program):
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", program], capture_output=True, text=True, timeout=4 * PATIENCE
    )
    assert done.returncode == 0, done.stderr[-2000:]


def test_forked_workers_find_the_same_and_wait_for_no_lock_of_the_parents_threads():
    """In one process, as it takes seconds to start."""
    run(BEGIN + (POOL + LOCKED).format(patience=PATIENCE))
