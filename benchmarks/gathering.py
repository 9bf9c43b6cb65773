"""What a step pays for `gathered`, beside a bare all_gather of as many bytes::

OMP_NUM_THREADS=1 torchrun --nproc-per-node 2 -m benchmarks.gathering
"""

import statistics
import time

import torch
from torch import distributed

from spectral_sampler.gathering import gathered

SIZE, ROUNDS = 128, 500


def median(call):
    for _ in range(50):
        call()
    seconds = []
    for _ in range(ROUNDS):
        distributed.barrier()
        start = time.perf_counter()
        call()
        seconds.append(time.perf_counter() - start)
    return statistics.median(seconds)


def main():
    distributed.init_process_group("gloo")
    ranks, rank = distributed.get_world_size(), distributed.get_rank()
    indices, losses = torch.randperm(50_000)[:SIZE], torch.rand(SIZE)
    sent = torch.zeros(1 + 2 * SIZE, dtype=torch.int64)
    received = torch.empty(ranks * len(sent), dtype=torch.int64)
    bare = median(lambda: distributed.all_gather_into_tensor(received, sent))
    ours = median(lambda: gathered(indices, losses, capacity=SIZE))
    rows, values = gathered(indices, losses, capacity=SIZE)
    assert rows[rank * SIZE : (rank + 1) * SIZE].tolist() == indices.tolist()
    assert values[rank * SIZE : (rank + 1) * SIZE].tolist() == losses.double().tolist()
    if rank == 0:
        print(f"{ranks} ranks, {SIZE} losses each: {ours * 1e3:.3f} ms, bare all_gather {bare * 1e3:.3f} ms")
    distributed.destroy_process_group()


if __name__ == "__main__":
    main()
