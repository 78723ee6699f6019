"""What the tests of training share: one thread, a small detector, a small data set, processes."""

import multiprocessing
import os
import socket

import pytest
import torch

from ddetr_edu.data import write_shapes_set
from ddetr_edu.detector import DeformableDETR, DeformableDETRConfig, PictureSize
from ddetr_edu.detector.config import PRESETS
from ddetr_edu.training import Detector, TrainConfig

SMALL = dict(d_model=32, n_heads=2, n_points=2, n_levels=2, n_encoder_layers=1, n_decoder_layers=2,
             d_ffn=11, n_queries=13)  # fmt: skip
CATEGORIES = {3: "cat", 7: "dog", 90: "toothbrush"}  # ids with gaps


@pytest.fixture(autouse=True)
def one_thread():
    """Sums come in the same order on every machine."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture
def build():
    """build(seed=0, categories=...): a small detector for pictures of 64 to 96 px, in eval mode."""

    def make(seed: int = 0, categories=CATEGORIES, **changes) -> Detector:
        torch.manual_seed(seed)
        small = dict(d_model=64, n_heads=2, n_points=3, n_encoder_layers=1, n_decoder_layers=2,
                     d_ffn=37, n_queries=19)  # fmt: skip
        config = DeformableDETRConfig.preset(
            "tiny", **{**small, "num_classes": len(categories), **changes}
        )
        return Detector(DeformableDETR(config), categories, PictureSize(64, 96)).eval()

    return make


@pytest.fixture(scope="session")
def shapes_folder(tmp_path_factory):
    """A small set in COCO's layout: five pictures to learn from, three to evaluate on."""
    folder = tmp_path_factory.mktemp("shapes")
    write_shapes_set(folder, train=5, val=3, seed=11)
    return folder


@pytest.fixture
def config(shapes_folder, tmp_path, monkeypatch):
    """config(**changes): three steps of a smaller tiny model on the small data set."""
    monkeypatch.setitem(PRESETS, "tiny", {**PRESETS["tiny"], **SMALL})

    def make(**changes):
        return TrainConfig(**{
            **dict(data=str(shapes_folder), out=tmp_path / "run", steps=3, batch=2,
                   size=PictureSize(64, 96), device="cpu", workers=0),
            **changes,
        })  # fmt: skip

    return make


@pytest.fixture
def in_processes():
    """in_processes(work): what work() returns in each of two processes that know of one another."""

    def run(work, processes: int = 2) -> list:
        context = multiprocessing.get_context("fork")  # as everything is imported already
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = str(free.getsockname()[1])
        answers = context.Queue()

        def answer(rank):
            os.environ |= {"RANK": str(rank), "LOCAL_RANK": str(rank), "MASTER_ADDR": "127.0.0.1",
                           "MASTER_PORT": port, "WORLD_SIZE": str(processes)}  # fmt: skip
            try:
                answers.put((rank, work()))
            except BaseException as error:
                answers.put((rank, error))

        started = [context.Process(target=answer, args=(rank,)) for rank in range(processes)]
        for process in started:
            process.start()
        found = dict(answers.get(timeout=100) for _ in started)
        for process in started:
            process.join()
        for rank in sorted(found):
            if isinstance(found[rank], BaseException):
                raise found[rank]
        return [found[rank] for rank in range(processes)]

    return run
