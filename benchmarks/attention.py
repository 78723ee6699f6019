"""Time the implementations of deformable attention: python benchmarks/attention.py --help"""

import tyro

from ddetr_edu.bench import BenchConfig, bench_attention

if __name__ == "__main__":
    bench_attention(tyro.cli(BenchConfig))
