"""Time the implementations of deformable attention: python benchmarks/attention.py --help"""

from dataclasses import replace
from pathlib import Path

import tyro

from ddetr_edu.cli.bench_attention import BenchConfig, bench_attention

RESULTS = Path(__file__).parent / "results/attention"  # README's table is generated from it

if __name__ == "__main__":
    bench_attention(tyro.cli(BenchConfig, default=replace(BenchConfig(), out=RESULTS)))
