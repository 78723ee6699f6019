"""The animation of a run: a frame for each checkpoint, all of one size, the last shown longest."""

import io

import numpy as np
import PIL.Image
import pytest

from ddetr_edu.viz.training_animation import Animation, training_animation

M, L, P = 3, 2, 5
IMAGE = np.random.default_rng(0).random((31, 43, 3))


def frame(step, AP=None, boxes=1):
    rng = np.random.default_rng(step)
    return {
        "step": step,
        "AP": AP,
        "boxes": rng.random((boxes, 4)) * 30,
        "texts": ["cat 0.50"] * boxes,
        "box": [3, 4, 20, 19],
        "reference": [0.25, 0.5, 0.1, 0.2],
        "locations": rng.uniform(-0.2, 1.2, (M, L, P, 2)),
        "weights": rng.random((M, L, P)),
    }


@pytest.fixture(scope="module")
def animation():
    return training_animation(IMAGE, [frame(3, boxes=0), frame(50), frame(700, AP=0.25)])


def test_a_frame_for_each_checkpoint_of_one_size(animation):
    assert len(animation.images) == 3 and len({image.size for image in animation.images}) == 1
    arrays = [np.asarray(image) for image in animation.images]
    assert not np.array_equal(arrays[0], arrays[1]) and not np.array_equal(arrays[1], arrays[2])


@pytest.mark.parametrize("name", ["a.gif", "new/a.png"])
def test_a_saved_animation_loops_and_rests_at_the_end(animation, tmp_path, name):
    animation.save(tmp_path / name)
    with PIL.Image.open(tmp_path / name) as saved:
        assert saved.n_frames == 3 and saved.info["loop"] == 0
        times = []
        for number in range(3):
            saved.seek(number)
            times.append(saved.info["duration"])
    assert times == [700, 700, 2100]


def test_a_notebook_plays_it_in_place(animation):
    with PIL.Image.open(io.BytesIO(animation._repr_png_())) as shown:
        assert shown.n_frames == 3


def test_an_animation_of_one_checkpoint_is_one_image(tmp_path):
    animation = training_animation(IMAGE, [frame(3)])
    animation.save(tmp_path / "a.gif")
    assert PIL.Image.open(tmp_path / "a.gif").n_frames == 1


def test_what_cannot_be_written_is_named(animation, tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", "")
    with pytest.raises(ValueError, match="needs ffmpeg"):
        animation.save(tmp_path / "a.mp4")
    with pytest.raises(ValueError, match=r"ending in \.gif, \.png or \.mp4"):
        animation.save(tmp_path / "a.avi")
    with pytest.raises(ValueError, match="no frame"):
        training_animation(IMAGE, [])
    assert list(tmp_path.iterdir()) == [] and isinstance(animation, Animation)
