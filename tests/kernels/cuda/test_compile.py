"""The kernels as a Hopper GPU would get them: no GPU is needed to compile, and the interpreter checks no types."""

import os
import subprocess
import sys

import pytest

SCRIPT = """
import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource
from nbquant.kernels.cuda.assign import assign_kernel
from nbquant.kernels.cuda.choice import candidates_kernel
from nbquant.kernels.cuda.gather import gather_kernel
from nbquant.kernels.cuda.histogram import histogram_kernel
from nbquant.kernels.cuda.trellis import backward_kernel, forward_kernel

POINTERS = dict(
    weight="*fp32", sensitivity="*bf16", out="*i8", sums="*fp64", edges="*fp32", codes="*i32", values="*fp32",
    prices="*fp32", candidates="*i64", lattice="*fp64", listed="*i32", listed_count="*i32", table="*fp64",
    codebook="*fp32", assignment="*i8", w_scale="fp32", h_scale="fp32",
)

def build(kernel, pointers=POINTERS, **constants):
    names = kernel.arg_names
    types = {n: "constexpr" if n in constants else pointers.get(n, "i32") for n in names}
    attrs = {(i,): [["tt.divisibility", 16]] for i, n in enumerate(names) if types[n].startswith("*")}
    source = ASTSource(kernel, types, {(names.index(n),): v for n, v in constants.items()}, attrs)
    made = triton.compile(source, target=GPUTarget("cuda", 90, 32))
    assert made.asm["cubin"], kernel
    print(kernel.__name__, made.metadata.shared, "bytes shared", flush=True)
    return made.asm["ptx"]

shifts = dict(BIN_SHIFT=16, ROW_SHIFT=22)
ptx = build(histogram_kernel, BLOCK=512, SHIFT=16, ROW_SHIFT=22, LEAST_MASS=1e-200, WEIGHTED=True, JOINT=True)
assert "add.f64" in ptx
for kind, matrix, weighted in (("search", 32, True), ("all", 32, True), ("table", 0, True), ("lattice", 0, False)):
    build(
        assign_kernel, BLOCK=128 if matrix else 512, CHOICE=kind, DEPTH=5, LISTED=kind == "all", WEIGHTED=weighted,
        SKIP_ZEROS=True, MATRIX=matrix, **shifts,
    )
build(candidates_kernel, COLUMNS=128, **shifts)
build(gather_kernel, BLOCK=2048)
paths = dict(
    target="*fp32", weight="*fp32", around="*u8", price="*fp32", lowest="*fp32", from_node="*i32", from_branch="*i32",
    came="*u8", chosen="*i32", node="*i32", out="*i32", step="fp32",
)
build(forward_kernel, paths, LAST_EDGE=6, BLOCK=32, NODES=32, BRANCHES=32, PREVIOUS=3, PER=4, PARITIES=2)
build(backward_kernel, paths, STATES_BY_CLASS=12, BLOCK=32, NODES=32, PARITIES=2)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="Triton brings NVIDIA's assembler on Linux alone")
def test_every_kernel_compiles_for_hopper(tmp_path):
    environment = {**os.environ, "TRITON_INTERPRET": "0", "TRITON_CACHE_DIR": str(tmp_path)}
    ran = subprocess.run([sys.executable, "-c", SCRIPT], env=environment, capture_output=True, text=True)
    assert ran.returncode == 0, ran.stderr[-3000:]
    assert len(ran.stdout.splitlines()) == 9
