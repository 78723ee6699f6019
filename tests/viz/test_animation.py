"""The film of a training: one frame for each checkpoint, all of one size, the last the longest."""

import io

import numpy as np
import PIL.Image
import pytest

from ddetr_edu.viz.animation import Film, film_of_training

M, L, P = 3, 2, 5
PICTURE = np.random.default_rng(0).random((31, 43, 3))


def frame(step, AP=None, boxes=1):
    rng = np.random.default_rng(step)
    return {
        "step": step, "AP": AP, "boxes": rng.random((boxes, 4)) * 30, "texts": ["cat 0.50"] * boxes,
        "box": [3, 4, 20, 19], "reference": [0.25, 0.5, 0.1, 0.2],
        "locations": rng.uniform(-0.2, 1.2, (M, L, P, 2)), "weights": rng.random((M, L, P)),
    }  # fmt: skip


@pytest.fixture(scope="module")
def film():
    return film_of_training(PICTURE, [frame(3, boxes=0), frame(50), frame(700, AP=0.25)])


def test_a_frame_for_each_checkpoint_of_one_size(film):
    assert len(film.pictures) == 3 and len({picture.size for picture in film.pictures}) == 1
    arrays = [np.asarray(picture) for picture in film.pictures]
    assert not np.array_equal(arrays[0], arrays[1]) and not np.array_equal(arrays[1], arrays[2])


@pytest.mark.parametrize("name", ["a.gif", "new/a.png"])
def test_a_saved_film_plays_for_ever_and_rests_at_the_end(film, tmp_path, name):
    film.save(tmp_path / name)
    with PIL.Image.open(tmp_path / name) as saved:
        assert saved.n_frames == 3 and saved.info["loop"] == 0
        times = []
        for number in range(3):
            saved.seek(number)
            times.append(saved.info["duration"])
    assert times == [700, 700, 2100]


def test_a_notebook_plays_it_in_place(film):
    with PIL.Image.open(io.BytesIO(film._repr_png_())) as shown:
        assert shown.n_frames == 3


def test_a_film_of_one_checkpoint_is_a_picture(tmp_path):
    film = film_of_training(PICTURE, [frame(3)])
    film.save(tmp_path / "a.gif")
    assert PIL.Image.open(tmp_path / "a.gif").n_frames == 1


def test_what_cannot_be_written_is_named(film, tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", "")
    with pytest.raises(ValueError, match="needs ffmpeg"):
        film.save(tmp_path / "a.mp4")
    with pytest.raises(ValueError, match=r"ending in \.gif, \.png or \.mp4"):
        film.save(tmp_path / "a.avi")
    with pytest.raises(ValueError, match="no frame"):
        film_of_training(PICTURE, [])
    assert list(tmp_path.iterdir()) == [] and isinstance(film, Film)
