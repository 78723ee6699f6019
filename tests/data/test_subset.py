"""Subsets of COCO, downloaded over real HTTP from a server that fails in every known way."""

import errno
import hashlib
import io
import itertools
import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import zipfile
from collections import Counter
from pathlib import Path
from threading import Event, main_thread

import pytest
from coco_server import ARCHIVE, CocoServer, one_in_five, small_coco

from ddetr_edu import files
from ddetr_edu.cli.main import main, parse
from ddetr_edu.cli.main import split as split_command
from ddetr_edu.data import fetch, subset
from ddetr_edu.data.coco import CocoDetection
from ddetr_edu.data.fetch import FetchError, NotFound, Source, open_remote
from ddetr_edu.data.subset import SubsetConfig, fetch_subset
from ddetr_edu.data.validate import validate_dataset

COCO = small_coco()


@pytest.fixture(autouse=True)
def isolated(tmp_path, monkeypatch):
    """A cache of its own, no proxy, and no pauses."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    monkeypatch.setattr(fetch, "BACKOFF_SECONDS", 0.002)


def config_for(tmp_path, server, **choice):
    config = {"out": tmp_path / "out", "images": 12, "val_images": 5, "source": server.url}
    return SubsetConfig(**{**config, **choice})


def content_of(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


def images_of(folder: Path) -> dict[str, bytes]:
    return {name: c for name, c in content_of(folder).items() if name.endswith(".jpg")}


def provenance_of(folder: Path) -> dict:
    return json.loads((folder / "provenance.json").read_text())


def split_of(folder: Path, split: str = "train2017") -> dict:
    return json.loads((folder / "annotations" / f"instances_{split}.json").read_text())


def assert_whole(folder: Path, images=12, val_images=5, source=COCO):
    """Complete, byte for byte as the source has it, no leftovers, and a data set without errors."""
    files = images_of(folder)
    assert Counter(name.split("/")[0] for name in files) == {
        "train2017": images,
        "val2017": val_images,
    }
    assert all(source[name] == content for name, content in files.items())
    others = content_of(folder).keys() - files.keys()
    assert others == {
        "provenance.json",
        "annotations/instances_train2017.json",
        "annotations/instances_val2017.json",
    }
    assert not list(folder.rglob(".*"))
    assert sum(report.n_errors for report in validate_dataset(folder)) == 0
    assert len(CocoDetection(folder, "train")) == images
    assert len(CocoDetection(folder, "val")) == val_images
    provenance = provenance_of(folder)
    splits = provenance["images"].items()
    rows = {f"{split}/{row['file_name']}": row for split, rows in splits for row in rows}
    assert provenance["complete"] and rows.keys() == files.keys()
    for name, row in rows.items():
        assert row["sha256"] == hashlib.sha256(source[name]).hexdigest()
        assert row["url"].endswith(name) and row["flickr_url"] == f"http://flickr/{row['id']}"


# A reliable source -------------------------------------------------------------------------------


def test_a_subset_is_a_data_set_of_the_chosen_categories(tmp_path):
    with CocoServer(COCO) as server:
        config = config_for(tmp_path, server, categories="dog, traffic light")
        fetched = fetch_subset(config)
        assert_whole(tmp_path / "out")
        assert len(fetched["train2017"]) == 12
        assert sum(server.asked[name] for name in images_of(tmp_path / "out")) == 17
        assert len(server.asked) == 18  # and the archive; no other image
    dataset = CocoDetection(tmp_path / "out", "train")
    assert dataset.categories == {10: "traffic light", 18: "dog"}
    assert all(len(target["labels"]) for _, target in dataset)
    entry = split_of(tmp_path / "out")["images"][0]
    assert entry.keys() == {"id", "file_name", "width", "height", "license", "flickr_url"}
    provenance = provenance_of(tmp_path / "out")
    assert provenance["command"] == config.command()
    assert "--categories 'dog, traffic" in provenance["command"]
    assert provenance["request"]["seed"] == 0 and provenance["date"]
    assert provenance["annotations"].endswith(ARCHIVE)
    assert provenance["replaced"] == {"train2017": [], "val2017": []}


def test_boxes_are_all_of_the_chosen_categories_and_as_in_the_source(tmp_path):
    with CocoServer(COCO) as server:
        fetch_subset(config_for(tmp_path, server, categories="person", images=20))
    for split in ("train2017", "val2017"):
        made, source = split_of(tmp_path / "out", split), original(split)
        ids = {entry["id"] for entry in made["images"]}
        expected = [
            {key: value for key, value in a.items() if key != "segmentation"}
            for a in source["annotations"]
            if a["image_id"] in ids and a["category_id"] == 1 and a["bbox"][3]
        ]
        by_id = {"key": lambda annotation: annotation["id"]}
        assert sorted(made["annotations"], **by_id) == sorted(expected, **by_id)
        assert [e for e in source["images"] if e["id"] in ids] == made["images"]


def original(split):
    with zipfile.ZipFile(io.BytesIO(COCO[ARCHIVE])) as archive:
        return json.loads(archive.read(f"annotations/instances_{split}.json"))


def names(folder):
    return set(images_of(folder))


def test_the_choice_depends_only_on_the_seed(tmp_path):
    chosen = {}
    with CocoServer(COCO) as server:
        for choose in ("balanced", "random"):
            for key, changes in {
                "first": {},
                "again": {"workers": 1},
                "other": {"seed": 1},
                "more": {"images": 20},
            }.items():
                out = tmp_path / f"{choose}-{key}"
                fetch_subset(config_for(tmp_path, server, out=out, choose=choose, **changes))
                chosen[key] = names(out)
            assert chosen["first"] == chosen["again"]
            assert len(chosen["first"] & chosen["other"]) < 12
            assert chosen["first"] < chosen["more"]


def test_balanced_has_about_as_many_images_of_each_category(tmp_path):
    counts = {}
    with CocoServer(COCO) as server:
        for choose in ("balanced", "random"):
            out = tmp_path / choose
            fetch_subset(config_for(tmp_path, server, out=out, choose=choose, images=15))
            pairs = {
                (a["image_id"], a["category_id"])
                for a in split_of(out)["annotations"]
                if not a["iscrowd"]
            }
            counts[choose] = Counter(category for _, category in pairs)
    assert counts["balanced"][18] >= 6 and counts["balanced"][10] >= 6
    assert counts["random"][1] > 2 * counts["random"][18]


def test_only_images_under_the_chosen_licences(tmp_path):
    with CocoServer(COCO) as server:
        config = config_for(tmp_path, server, license="by,by-sa", images=9, val_images=2)
        fetch_subset(config)
        assert {entry["license"] for entry in split_of(tmp_path / "out")["images"]} == {4, 5}
        rows = provenance_of(tmp_path / "out")["images"]["train2017"]
        assert {row["license_url"] for row in rows} == {
            f"http://creativecommons.org/licenses/{name}/2.0/" for name in ("by", "by-sa")
        }
        other = config_for(
            tmp_path, server, out=tmp_path / "b", license="no-known-restrictions", images=2
        )
        fetch_subset(other)
        assert {entry["license"] for entry in split_of(tmp_path / "b")["images"]} == {7}


def test_only_images_to_evaluate_on_or_none_at_all(tmp_path):
    with CocoServer(COCO) as server:
        fetch_subset(config_for(tmp_path, server, split="val2017", images=4, val_images=None))
        assert len(CocoDetection(tmp_path / "out", "val")) == 4
        assert {p.split("/")[0] for p in names(tmp_path / "out")} == {"val2017"}
        fetch_subset(config_for(tmp_path, server, out=tmp_path / "b", val_images=0))
        assert {p.split("/")[0] for p in names(tmp_path / "b")} == {"train2017"}
        fetch_subset(config_for(tmp_path, server, out=tmp_path / "c", images=20, val_images=None))
        assert len(CocoDetection(tmp_path / "c", "val")) == 4  # a fifth


def test_annotations_are_fetched_once_and_only_the_part_that_is_needed(tmp_path, monkeypatch):
    monkeypatch.setattr(fetch, "BLOCK_SIZE", 1000)
    with CocoServer(COCO) as server:
        fetch_subset(config_for(tmp_path, server, split="val2017", images=1, val_images=None))
        images = sum(map(len, images_of(tmp_path / "out").values()))
        assert server.sent - images < 10_000 < len(COCO[ARCHIVE]) / 3
        before = server.asked[ARCHIVE]
        fetch_subset(
            config_for(
                tmp_path, server, split="val2017", out=tmp_path / "b", images=2, val_images=None
            )
        )
        assert server.asked[ARCHIVE] == before
    assert not list((tmp_path / "cache").rglob("blocks"))


def test_a_server_that_does_not_support_ranges(tmp_path):
    with CocoServer(COCO, ranges=False) as server:
        fetch_subset(config_for(tmp_path, server))
    assert_whole(tmp_path / "out")


def test_a_remote_file_reads_like_one_on_disk(tmp_path, monkeypatch):
    monkeypatch.setattr(fetch, "BLOCK_SIZE", 13)
    content = bytes(range(97))
    with CocoServer({"a": content}) as server:
        remote = open_remote(Source(server.url), "a", tmp_path / "blocks")
        local = io.BytesIO(content)
        for offset, whence, count in [
            (-5, 2, 3),
            (0, 0, 13),
            (0, 1, 14),
            (12, 0, 2),
            (90, 0, 99),
            (200, 0, 1),
            (3, 0, -1),
        ]:
            assert remote.seek(offset, whence) == local.seek(offset, whence)
            assert remote.read(count) == local.read(count)
            assert remote.tell() == local.tell()
        asked = server.asked["a"]
        again = open_remote(Source(server.url), "a", tmp_path / "blocks")
        assert again.read() == content and server.asked["a"] == asked + 1  # only its size


# An unreliable source ----------------------------------------------------------------------------

KINDS = ["500", "503", "cut", "slow", "text", "size", "broken", "closed", "404"]


def test_a_fifth_of_the_answers_fail_and_the_subset_is_complete_and_identical(
    tmp_path, monkeypatch
):
    monkeypatch.setattr(fetch, "BLOCK_SIZE", 2000)
    monkeypatch.setattr(fetch, "TIMEOUT", 0.5)
    with CocoServer(COCO) as server:
        fetch_subset(config_for(tmp_path, server, images=60, val_images=25))
        expected = images_of(tmp_path / "out")
        archive = server.asked[ARCHIVE]
    shutil.rmtree(tmp_path / "cache")
    with CocoServer(COCO, one_in_five) as server:
        fetch_subset(config_for(tmp_path, server, out=tmp_path / "b", images=60, val_images=25))
        assert server.faults.keys() == {None, *KINDS}
        assert 0.15 < 1 - server.faults[None] / server.faults.total() < 0.25
        assert server.asked[ARCHIVE] > archive  # it failed, too
    assert_whole(tmp_path / "b", 60, 25)
    assert images_of(tmp_path / "b") == expected
    assert provenance_of(tmp_path / "b")["replaced"] == {"train2017": [], "val2017": []}


@pytest.mark.parametrize("kind", KINDS)
def test_each_kind_of_failure_is_noticed_and_the_file_asked_for_again(kind, tmp_path, monkeypatch):
    monkeypatch.setattr(fetch, "TIMEOUT", 0.5)

    def fault(path, n):
        return kind if n == 0 and path.startswith("train2017") else None

    with CocoServer(COCO, fault) as server:
        fetch_subset(config_for(tmp_path, server, images=3, val_images=1))
        assert server.faults[kind] == 3
    assert_whole(tmp_path / "out", 3, 1)


@pytest.mark.parametrize("kind", ["404", "size", "broken", "text"])
def test_images_that_the_source_does_not_have_or_only_damaged_are_replaced(kind, tmp_path):
    with CocoServer(COCO) as server:
        fetch_subset(config_for(tmp_path, server, out=tmp_path / "all"))
    shutil.rmtree(tmp_path / "cache")
    lost = sorted(name for name in names(tmp_path / "all") if name.startswith("train"))[3:5]
    with CocoServer(COCO, lambda path, n: kind if path in lost else None) as server:
        fetch_subset(config_for(tmp_path, server))
    assert_whole(tmp_path / "out")
    now, before = names(tmp_path / "out"), names(tmp_path / "all")
    assert before - now == set(lost) and len(now - before) == 2
    replaced = provenance_of(tmp_path / "out")["replaced"]["train2017"]
    assert len(replaced) == 2 and all(l in r for l, r in zip(lost, replaced, strict=True))


def test_a_source_that_lacks_nearly_all_images_is_not_coco(tmp_path):
    files = {ARCHIVE: COCO[ARCHIVE]}
    with CocoServer(files) as server:
        with pytest.raises(FetchError, match=r"lacks too many images.*\.jpg does not exist"):
            fetch_subset(config_for(tmp_path, server))
        assert len(server.asked) <= 13


def test_too_few_images_are_left(tmp_path):
    kept = [name for name in COCO if not name.startswith("train")]
    lacking = sorted(name for name in COCO if name.startswith("train"))[:3]
    files = {name: COCO[name] for name in COCO if name in kept or name not in lacking}
    usable = len(
        {
            a["image_id"]
            for a in original("train2017")["annotations"]
            if not a["iscrowd"] and a["bbox"][3]
        }
    )
    with CocoServer(files) as server, pytest.raises(FetchError, match="has too few images"):
        fetch_subset(config_for(tmp_path, server, images=usable))


def test_a_server_that_breaks_down_ends_it_and_the_same_command_resumes(tmp_path):
    def breaks_down(path, n):
        return "500" if path.startswith("train") and len(server.asked) > 7 else None

    with CocoServer(COCO) as server:
        server.fault = breaks_down
        with pytest.raises(FetchError, match="cannot be fetched .HTTP 500.*run the same command"):
            fetch_subset(config_for(tmp_path, server, images=30, workers=2))
        left = images_of(tmp_path / "out")
        assert 3 <= len(left) < 30 and all(COCO[name] == c for name, c in left.items())
        assert not list(tmp_path.glob("out/.*")) and not list(tmp_path.glob("out/annotations/*"))
        assert provenance_of(tmp_path / "out")["complete"] is False
        server.fault = lambda path, n: None
        before = server.asked.copy()
        fetch_subset(config_for(tmp_path, server, images=30, workers=2))
        assert all(server.asked[name] == before[name] for name in left)  # not fetched again
    assert_whole(tmp_path / "out", 30)


def test_an_image_that_was_damaged_on_disk_is_fetched_again(tmp_path):
    with CocoServer(COCO) as server:
        fetch_subset(config_for(tmp_path, server))
        name = sorted(names(tmp_path / "out"))[0]
        (tmp_path / "out" / name).write_bytes(COCO[name][:100])
        (tmp_path / "out" / sorted(names(tmp_path / "out"))[1]).unlink()
        fetch_subset(config_for(tmp_path, server))
    assert_whole(tmp_path / "out")


def test_annotations_that_stay_damaged_are_an_error(tmp_path, monkeypatch):
    damaged = {**COCO, ARCHIVE: COCO[ARCHIVE][:500] + b"\x00" * 50_000 + COCO[ARCHIVE][-3000:]}
    with CocoServer(damaged) as server, pytest.raises(FetchError, match="zip is damaged"):
        fetch_subset(config_for(tmp_path, server))
    assert not (tmp_path / "out").exists() and not list((tmp_path / "cache").rglob("*.json"))


def test_a_server_that_breaks_down_amid_the_annotations(tmp_path):
    def breaks_down(path, n):
        return "500" if n >= 1 else None  # the first answer says how large the archive is

    with CocoServer(COCO, breaks_down) as server:
        with pytest.raises(FetchError, match="zip cannot be fetched .HTTP 500"):
            fetch_subset(config_for(tmp_path, server))
        assert server.asked[ARCHIVE] == 1 + fetch.MAX_ATTEMPTS
        server.fault = lambda path, n: None
        fetch_subset(config_for(tmp_path, server))
    assert_whole(tmp_path / "out")


def test_answers_that_are_too_slow_are_given_up(monkeypatch):
    monkeypatch.setattr(fetch, "TIMEOUT", 0.5)
    monkeypatch.setattr(fetch, "MAX_ATTEMPTS", 2)
    with CocoServer({"a": 9 * b"trickle"}, lambda path, n: "trickle") as server:
        with pytest.raises(FetchError, match="slower than 1000 bytes a second"):
            Source(server.url).get("a")
        assert server.asked["a"] == 2


def test_an_answer_shorter_than_announced_is_asked_for_again():
    with CocoServer({"a": b"12345678"}, lambda path, n: "cut" if n == 0 else None) as server:
        assert Source(server.url).get("a") == b"12345678" and server.asked["a"] == 2


def test_a_wrong_request_is_not_repeated():
    with CocoServer({}, lambda path, n: "401") as server:
        with pytest.raises(FetchError, match="HTTP 401"):
            Source(server.url).get("a")
        assert server.asked["a"] == 1
        server.fault = lambda path, n: "404"
        with pytest.raises(NotFound):
            Source(server.url).get("b")
        assert server.asked["b"] == fetch.MAX_NOT_FOUND


# Interrupted -------------------------------------------------------------------------------------


def test_killed_half_way_and_run_again(tmp_path):
    """SIGKILL: all files are complete, and the next run fetches only the missing ones."""
    half_way, killed = Event(), Event()

    def hold(path, n):
        if len(server.asked) > 15:
            half_way.set()
            killed.wait(60)

    with CocoServer(COCO, hold) as server:
        line = ["data", "coco", "--images", "40", "--val-images", "5", "--workers", "2"]
        line += ["--out", str(tmp_path / "out"), "--source", server.url]
        process = subprocess.Popen(
            [sys.executable, "-m", "ddetr_edu", *line], stderr=subprocess.DEVNULL
        )
        assert half_way.wait(60)
        process.send_signal(signal.SIGKILL)
        assert process.wait() == -signal.SIGKILL
        killed.set()
        left = images_of(tmp_path / "out")
        assert 10 <= len(left) <= 14 and all(COCO[name] == c for name, c in left.items())
        (tmp_path / "out" / ".unfinished").mkdir(exist_ok=True)
        (tmp_path / "out" / ".unfinished" / "x.jpg.partial").write_bytes(b"half")
        before = server.asked.copy()
        assert main(line) == 0
        assert all(server.asked[name] == before[name] for name in left)
    assert_whole(tmp_path / "out", 40)


@pytest.fixture
def ctrl_c():
    """Ctrl-C interrupts, also where a shell has started the tests in the background."""
    previous = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, previous)


@pytest.mark.usefixtures("ctrl_c")
def test_ctrl_c_leaves_only_whole_images(tmp_path, monkeypatch, capsys):
    """Ctrl-C comes with the fifth image; further ones wait until it is noticed."""
    write, stop, number, noticed = subset.atomic_write, Source.stop, itertools.count(), Event()

    def interrupted_write(file, content, unfinished):
        if file.suffix == ".jpg" and (n := next(number)) >= 4:  # two threads get two numbers
            while n == 4 and not noticed.is_set():
                # To the main thread, which waits: to another, it would not wake it. Nor does it
                # wake a thread that is just about to wait; so, as a user would, try again.
                signal.pthread_kill(main_thread().ident, signal.SIGINT)
                noticed.wait(10)
            assert noticed.wait(600)
        write(file, content, unfinished)

    def noticed_stop(source):
        stop(source)
        noticed.set()

    monkeypatch.setattr(subset, "atomic_write", interrupted_write)
    monkeypatch.setattr(Source, "stop", noticed_stop)
    with CocoServer(COCO) as server:
        line = ["--out", str(tmp_path / "out"), "--images", "40", "--workers", "2"]
        code = main(["data", "coco", *line, "--source", server.url])
    assert code == 130 and "interrupted" in capsys.readouterr().err
    left = images_of(tmp_path / "out")
    assert 4 <= len(left) <= 6 and all(COCO[name] == c for name, c in left.items())
    assert not list(tmp_path.glob("out/.*"))


def test_a_full_disk_ends_it_in_one_sentence_and_leaves_whole_images(tmp_path, monkeypatch):
    real, number = os.fsync, itertools.count()

    def full(descriptor):
        if next(number) >= 7:  # two files of annotations, the provenance, and four images
            raise OSError(errno.ENOSPC, "No space left on device")
        real(descriptor)

    with CocoServer(COCO, ranges=False) as server:
        monkeypatch.setattr(files.os, "fsync", full)
        with pytest.raises(OSError, match=r"\.jpg could not be written: No space left") as raised:
            fetch_subset(config_for(tmp_path, server))
        assert "\n" not in str(raised.value)
        monkeypatch.setattr(files.os, "fsync", real)
        left = images_of(tmp_path / "out")
        assert len(left) == 4 and all(COCO[name] == c for name, c in left.items())
        assert not list(tmp_path.glob("out/.*"))
        fetch_subset(config_for(tmp_path, server))
    assert_whole(tmp_path / "out")


def test_a_full_disk_while_annotations_are_extracted(tmp_path, monkeypatch):
    def full(descriptor):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(files.os, "fsync", full)
    for ranges in (True, False):  # with ranges, a block of the archive is what cannot be written
        with CocoServer(COCO, ranges=ranges) as server:
            with pytest.raises(OSError, match="could not be written: No space left") as raised:
                fetch_subset(config_for(tmp_path, server))
            assert str(raised.value).count("could not be written") == 1
    assert not (tmp_path / "out").exists() and not list((tmp_path / "cache").rglob("*.json"))


# Rejected ----------------------------------------------------------------------------------------


def error_message(capsys, *line) -> str:
    """The one line that the command leaves on the terminal, beside the progress bar."""
    assert main(["data", "coco", *map(str, line)]) == 1
    error = capsys.readouterr().err.splitlines()[-1]
    assert error.startswith("ddetr data: ") and "Traceback" not in error
    return error


def test_no_network_is_one_sentence(tmp_path, monkeypatch, capsys):
    def no_name(*args, **kwargs):
        raise socket.gaierror(-3, "Temporary failure in name resolution")

    for variable in ("http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.delenv(variable, raising=False)
    monkeypatch.setattr(socket, "getaddrinfo", no_name)
    message = error_message(capsys, "--out", tmp_path / "out")
    assert "images.cocodataset.org" in message and "name resolution" in message
    assert "check the network connection" in message
    assert not (tmp_path / "out").exists()


def test_a_server_that_is_down(tmp_path, capsys):
    with CocoServer({}) as server:
        pass
    message = error_message(capsys, "--out", tmp_path / "out", "--source", server.url)
    assert "Connection refused" in message


@pytest.mark.parametrize(
    "flags, message",
    [
        ("--categories persn,dog", "COCO has no category 'persn'; there is person"),
        ("--categories x", "COCO has no category 'x'; there is person, traffic light, dog"),
        ("--license gpl", "COCO has no licence 'gpl'; there is by-nc-sa, by, by-sa, no-known"),
        ("--images 1000", "but 1000 were asked for; ask for fewer"),
        ("--images 2 --val-images 90", "val2017 has"),
        ("--images 0", "--images is 0; it must be at least 1"),
        ("--val-images -1", "--val-images is -1; it must be at least 0"),
        ("--workers 0", "--workers is 0"),
        ("--split val2017 --val-images 3", "--val-images goes with --split train2017"),
        ("--source file:///etc", "is not a web address"),
    ],
)
def test_an_impossible_choice_is_an_error_before_anything_is_written(
    flags, message, tmp_path, capsys
):
    with CocoServer(COCO) as server:
        source = [] if "--source" in flags else ["--source", server.url]
        assert message in error_message(capsys, *flags.split(), *source, "--out", tmp_path / "out")
        assert not (tmp_path / "out").exists()


def test_a_folder_with_other_data_is_left_alone(tmp_path, capsys):
    with CocoServer(COCO) as server:
        fetch_subset(config_for(tmp_path, server, images=2, val_images=1))
        before = content_of(tmp_path / "out")
        line = ["--out", tmp_path / "out", "--source", server.url, "--images", "3"]
        assert "holds another subset (ddetr data coco" in error_message(capsys, *line)
        assert content_of(tmp_path / "out") == before
        (tmp_path / "out" / "provenance.json").write_text("{")
        assert "a provenance.json that cannot be read" in error_message(capsys, *line)
        (tmp_path / "out" / "provenance.json").unlink()
        assert "holds other files" in error_message(capsys, *line)


def test_a_mirror_does_not_choose_where_we_write(tmp_path):
    with CocoServer(COCO) as server:
        source = Source(server.url)
        selection = subset.select(config_for(tmp_path, server), source, "train2017", 1)
        for name in ("../x.jpg", "/tmp/x.jpg", "a/b.jpg", ".jpg", "", "..\\x.jpg"):
            with pytest.raises(ValueError, match="named like a path"):
                subset.fetch_image(source, selection, tmp_path, tmp_path, {"file_name": name})


def test_the_command_line(tmp_path, capsys):
    with CocoServer(COCO) as server:
        line = [
            "data",
            "coco",
            "--split",
            "train2017",
            "--categories",
            "person,dog",
            "--images",
            "7",
        ]
        line += ["--out", str(tmp_path / "out"), "--source", server.url]
        assert main(line) == 0
    out = capsys.readouterr().out
    assert "7 images of train2017, 1 images of val2017; try: ddetr train" in out
    assert main(["data", "validate", str(tmp_path / "out")]) == 0


def test_the_commands_of_the_readme_are_valid():
    readme = (Path(__file__).parents[2] / "data" / "README.md").read_text()
    commands = re.findall(r"uv run ddetr ([^\n`]+)", readme)
    assert len(commands) == 8
    for command in commands:
        parse(*split_command(command.split()))


def test_downloading_and_validating_do_not_import_torch():
    program = (
        "import sys, ddetr_edu.data.subset, ddetr_edu.data.validate\n"
        "print(sorted({'torch', 'torchvision', 'pycocotools'} & sys.modules.keys()))"
    )
    printed = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert printed.stdout == "[]\n", printed.stderr
