"""What the tests of several packages share: a small detector, a small data set, processes.

Tests run two at a time on small machines. Each gets one thread, which also makes it repeatable.
"""

import multiprocessing
import os
import socket

import pytest

# Before torch is imported, here and in the notebooks' kernels, which inherit the environment.
os.environ.setdefault("OMP_NUM_THREADS", "1")
# Without a C++ compiler the library warns once that it is slower; the lessons should not print it.
os.environ.setdefault("PYTHONWARNINGS", "ignore:deformable attention falls back:RuntimeWarning")

SMALL = dict(
    d_model=32,
    n_heads=2,
    n_points=2,
    n_levels=2,
    n_encoder_layers=1,
    n_decoder_layers=2,
    d_ffn=11,
    n_queries=13,
)
CATEGORIES = {3: "cat", 7: "dog", 90: "toothbrush"}  # ids with gaps


@pytest.fixture(autouse=True)
def one_thread():
    """With one thread, sums are computed in the same order on every machine."""
    import torch

    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture
def build():
    """build(seed=0, categories=...): a small detector for images of 64 to 96 px, in eval mode."""
    import torch

    from ddetr_edu.detector import Detector
    from ddetr_edu.models.config import DeformableDETRConfig, ResizeConfig
    from ddetr_edu.models.deformable_detr import DeformableDETR

    def make(seed: int = 0, categories=CATEGORIES, **changes) -> Detector:
        torch.manual_seed(seed)
        small = dict(
            d_model=64,
            n_heads=2,
            n_points=3,
            n_encoder_layers=1,
            n_decoder_layers=2,
            d_ffn=37,
            n_queries=19,
        )
        config = DeformableDETRConfig.preset(
            "tiny", **{**small, "num_classes": len(categories), **changes}
        )
        return Detector(DeformableDETR(config), categories, ResizeConfig(64, 96)).eval()

    return make


@pytest.fixture(scope="session")
def shapes_folder(tmp_path_factory):
    """A small data set in COCO's layout: five training images and three validation images."""
    from ddetr_edu.data.shapes import write_shapes_set

    folder = tmp_path_factory.mktemp("shapes")
    write_shapes_set(folder, train=5, val=3, seed=11)
    return folder


@pytest.fixture
def config(shapes_folder, tmp_path, monkeypatch):
    """config(**changes): three training steps of a smaller tiny model on the small data set."""
    from ddetr_edu.models.config import PRESETS, ResizeConfig
    from ddetr_edu.training.config import TrainConfig

    monkeypatch.setitem(PRESETS, "tiny", {**PRESETS["tiny"], **SMALL})

    def make(**changes):
        return TrainConfig(
            **{
                **dict(
                    data=str(shapes_folder),
                    out=tmp_path / "run",
                    steps=3,
                    batch_size=2,
                    image_size=ResizeConfig(64, 96),
                    device="cpu",
                    workers=0,
                ),
                **changes,
            }
        )

    return make


@pytest.fixture
def in_processes():
    """in_processes(work): the results of work() in two processes of one process group."""

    def run(work, processes: int = 2) -> list:
        context = multiprocessing.get_context("fork")  # everything is imported already
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = str(free.getsockname()[1])
        queue = context.Queue()

        def run_work(rank):
            os.environ |= {
                "RANK": str(rank),
                "LOCAL_RANK": str(rank),
                "MASTER_ADDR": "127.0.0.1",
                "MASTER_PORT": port,
                "WORLD_SIZE": str(processes),
            }
            try:
                queue.put((rank, work()))
            except BaseException as error:
                queue.put((rank, error))

        started = [context.Process(target=run_work, args=(rank,)) for rank in range(processes)]
        for process in started:
            process.start()
        results = dict(queue.get(timeout=600) for _ in started)
        for process in started:
            process.join()
        for rank in sorted(results):
            if isinstance(results[rank], BaseException):
                raise results[rank]
        return [results[rank] for rank in range(processes)]

    return run
