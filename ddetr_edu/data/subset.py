"""Downloading a subset of COCO: its annotations, and only the images that it needs."""

import datetime
import functools
import hashlib
import io
import itertools
import json
import re
import shlex
import shutil
import urllib.parse
import zipfile
import zlib
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import BinaryIO, Literal

from ddetr_edu.data.faults import DataError
from ddetr_edu.data.fetch import FetchError, NotFound, Source, open_remote
from ddetr_edu.data.image_files import read_image
from ddetr_edu.data.selection import SubsetSelection
from ddetr_edu.files import atomic_write, cache_folder
from ddetr_edu.progress import progress

ARCHIVE = "annotations/annotations_trainval2017.zip"
PROVENANCE = "provenance.json"
UNFINISHED = ".unfinished"  # folder for files that are being written
MAX_FAILURES = 10  # images; with so many, the cause is the network or the source


@dataclass(frozen=True)
class SubsetConfig:
    """Download a subset of COCO: its annotations, and only the images that it needs.

    Try it:  ddetr data coco --categories person,dog --images 500 --out data/coco-person-dog
    """

    out: Path = Path("data/coco")  # folder to write the data set to
    split: Literal["train2017", "val2017"] = "train2017"  # val2017: only images to evaluate on
    categories: str = ""  # names separated by commas, such as person,traffic light; empty: all
    images: int = 500  # number of images, each with an object of these categories
    val_images: int | None = None  # number of val2017 images; None: a fifth of --images
    # balanced: each category in about the same number of images; random: as frequent as in COCO
    choose: Literal["balanced", "random"] = "balanced"
    license: str = ""  # only images under these licences, such as by,by-sa; empty: all
    seed: int = 0  # of the choice: the same seed chooses the same images
    workers: int = 8  # number of images to download at a time
    source: str = "http://images.cocodataset.org"  # COCO's server, or a mirror with the same files

    def __post_init__(self):
        for name, minimum in {"images": 1, "workers": 1, "val_images": 0}.items():
            value = getattr(self, name)
            if value is not None and value < minimum:
                flag = name.replace("_", "-")
                raise ValueError(f"--{flag} is {value}; it must be at least {minimum}")
        if self.split == "val2017" and self.val_images is not None:
            raise ValueError("--val-images goes with --split train2017; give --images instead")

    def request(self) -> dict:
        """The settings that determine which images are chosen."""
        return {k: v for k, v in asdict(self).items() if k not in ("out", "workers")}

    def command(self) -> str:
        """The command line that downloads this subset."""
        flags = [(k, v) for k, v in asdict(self).items() if v is not None and v != ""]
        words = [word for k, v in flags for word in (f"--{k.replace('_', '-')}", str(v))]
        return shlex.join(["ddetr", "data", "coco", *words])


def fetch_subset(config: SubsetConfig) -> dict[str, list[dict]]:
    """Write a subset of COCO to a folder in COCO's layout, ready for `ddetr train --data`.

    It has images of config.split and, unless that is val2017, images of val2017 to evaluate on.
    Only the boxes of the chosen categories are kept, and no polygons. An image that the source
    does not have, or only damaged, is replaced by the next one of the selection. `provenance.json`
    holds the command and, for each image, its address, sha256, licence and author's page.

    If it is interrupted, the same command resumes; all files in the folder are complete.

    Args:
        config: What to download, and where to.

    Returns:
        For each split, the provenance of its images.

    Raises:
        ValueError: If COCO has no such categories, licences or so many images.
        FileExistsError: If the folder holds other data.
        FetchError: If the network fails for too long.
        OSError: If the disk is full.
    """
    source = Source(config.source)
    check_output_folder(config)
    # All images are chosen before the first is downloaded, so that a typing error shows at once.
    selections = {config.split: select(config, source, config.split, config.images)}
    if config.split == "train2017" and config.val_images != 0:
        selections["val2017"] = select(config, source, "val2017", config.val_images)
    unfinished = config.out / UNFINISHED
    unfinished.mkdir(parents=True, exist_ok=True)
    provenance = {
        "about": "A subset of COCO 2017, https://cocodataset.org; each image has the licence "
        "named here and belongs to its author, named at flickr_url.",
        "command": config.command(),
        "request": config.request(),
        "complete": False,
    }
    fetched: dict[str, list[dict]] = {}
    replaced: dict[str, list[str]] = {}
    try:
        atomic_write(config.out / PROVENANCE, _to_json(provenance, indent=1), unfinished)
        for split, selection in selections.items():
            fetched[split], replaced[split] = fetch_images(
                source, selection, config.out / split, unfinished, config.workers
            )
        for split, selection in selections.items():
            content = selection.annotations_of({row["id"] for row in fetched[split]})
            file = config.out / "annotations" / f"instances_{split}.json"
            atomic_write(file, _to_json(content), unfinished)
        provenance |= {
            "complete": True,
            "date": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
            "annotations": f"{source.url}/{ARCHIVE}",
            "replaced": replaced,
            "images": fetched,
        }
        atomic_write(config.out / PROVENANCE, _to_json(provenance, indent=1), unfinished)
    finally:
        shutil.rmtree(unfinished, ignore_errors=True)
    return fetched


def check_output_folder(config: SubsetConfig) -> None:
    """Check that the folder is empty or holds the beginning of the same subset.

    Args:
        config: Of the subset.

    Raises:
        FileExistsError: If the folder holds anything else.
    """
    try:
        earlier = json.loads((config.out / PROVENANCE).read_bytes())
        if earlier["request"] == config.request():
            return
        content = f"another subset ({earlier['command']})"
    except FileNotFoundError:
        if not config.out.exists() or {p.name for p in config.out.iterdir()} <= {UNFINISHED}:
            return
        content = "other files"
    except (ValueError, TypeError, KeyError):
        content = f"a {PROVENANCE} that cannot be read"
    raise FileExistsError(f"{config.out} holds {content}; choose another --out, or delete it")


def select(config: SubsetConfig, source: Source, split: str, count: int | None) -> SubsetSelection:
    """Choose the images of a split.

    Args:
        config: Of the subset.
        source: Where COCO's annotations come from, if they are not in the cache.
        split: The name of the split.
        count: The number of images; if None, a fifth of config.images, or all if there are fewer.

    Returns:
        The selection.

    Raises:
        ValueError: If COCO has no such categories, licences or so many images.
        FetchError: If the annotations cannot be downloaded.
    """
    annotation_file = fetch_annotations(source, split)
    print(f"choosing images from the annotations of {split}")  # which takes seconds to read
    return SubsetSelection(
        annotation_file,
        split,
        config.images // 5 if count is None else count,
        allow_fewer=count is None,
        categories=config.categories,
        license=config.license,
        choose=config.choose,
        seed=config.seed,
    )


def fetch_annotations(source: Source, split: str) -> Path:
    """Download COCO's own annotation file of a split, unless it is in the cache.

    Only this file is fetched out of COCO's archive, if the server supports ranges.

    Args:
        source: COCO's server.
        split: The name of the split.

    Returns:
        The path of the file in the cache.

    Raises:
        FetchError: If it cannot be downloaded.
        OSError: If the disk is full.
    """
    cache = cache_folder() / "coco" / urllib.parse.quote(source.url, safe="")
    file, blocks = cache / f"instances_{split}.json", cache / "blocks"

    def extract(out: BinaryIO) -> None:
        with zipfile.ZipFile(open_remote(source, ARCHIVE, blocks)) as archive:
            entry = archive.getinfo(f"annotations/{file.name}")
            bar = progress(
                desc=f"annotations of {split}", total=entry.file_size, unit="B", unit_scale=True
            )
            with archive.open(entry) as member, bar:
                while chunk := member.read(1 << 20):  # zipfile compares the checksum
                    out.write(chunk)
                    bar.update(len(chunk))

    for attempts_left in () if file.is_file() else (2, 1, 0):
        blocks.mkdir(parents=True, exist_ok=True)
        try:
            atomic_write(file, extract, blocks)
            break
        except (zipfile.BadZipFile, zlib.error, EOFError, KeyError) as error:
            if isinstance(error.__context__, OSError):
                raise error.__context__ from None  # zipfile takes any OSError for a damaged file
            shutil.rmtree(blocks, ignore_errors=True)
            if not attempts_left:
                raise FetchError(
                    f"{source.url}/{ARCHIVE} is damaged ({error}); run the same command again"
                ) from None
    shutil.rmtree(blocks, ignore_errors=True)
    return file


def fetch_images(
    source: Source, selection: SubsetSelection, folder: Path, unfinished: Path, workers: int
) -> tuple[list[dict], list[str]]:
    """Download the first selection.count images that the source has.

    Args:
        source: COCO's server.
        selection: The images, in order.
        folder: Where to write them.
        unfinished: The folder for files that are being written, on the same file system.
        workers: The number of images to download at a time.

    Returns:
        The provenance of the images, ordered by id, and a message for each that was replaced.

    Raises:
        FetchError: If the network fails for too long, or the source lacks too many images.
        OSError: If the disk is full.
    """
    folder.mkdir(exist_ok=True)
    fetched: list[dict] = []
    replaced: list[str] = []
    failures: list[FetchError] = []
    fetch = functools.partial(fetch_image, source, selection, folder, unfinished)
    with (
        ThreadPoolExecutor(workers) as pool,
        progress(total=selection.count, desc=selection.split, unit="image") as bar,
    ):
        try:
            while len(fetched) + len(failures) < selection.count:
                missing = selection.count - len(fetched) - len(failures)
                entries = list(itertools.islice(selection.order, missing))
                if len(entries) < missing:
                    raise FetchError(f"{source.url} has too few images: {replaced[0]}")
                for future in as_completed([pool.submit(fetch, entry) for entry in entries]):
                    try:
                        fetched.append(future.result())
                        bar.update()
                    except (NotFound, DataError) as error:
                        replaced.append(str(error))
                    except FetchError as error:
                        failures.append(error)
                    if len(failures) == MAX_FAILURES:
                        raise failures[-1]
                    if len(replaced) == MAX_FAILURES + selection.count // 10:
                        raise FetchError(
                            f"{source.url} lacks too many images to be COCO: {replaced[-1]}"
                        )
        except BaseException:
            source.stop()
            pool.shutdown(cancel_futures=True)
            raise
    if failures:
        raise FetchError(f"{len(failures)} of {selection.count} images are missing: {failures[0]}")
    return sorted(fetched, key=lambda row: row["id"]), sorted(replaced)


def fetch_image(
    source: Source, selection: SubsetSelection, folder: Path, unfinished: Path, entry: dict
) -> dict:
    """Download one image, unless the folder already has it complete.

    Args:
        source: COCO's server.
        selection: What the image belongs to.
        folder: Where to write it.
        unfinished: The folder for files that are being written, on the same file system.
        entry: COCO's entry of the image.

    Returns:
        Its provenance.

    Raises:
        NotFound: If the source does not have it.
        DataError: If the source has it only damaged or in another size.
        FetchError: If the network fails.
        OSError: If the disk is full.
    """
    name = entry["file_name"]
    if not re.fullmatch(r"\w[\w.-]*", name):  # a mirror must not choose where we write
        raise DataError(f"the image {name!r} is named like a path")
    path = f"{selection.split}/{name}"

    def check(content: bytes) -> None:
        size = (entry["height"], entry["width"])
        read_image(io.BytesIO(content), size, f"{source.url}/{path}")

    try:
        content = (folder / name).read_bytes()
        check(content)
    except (FileNotFoundError, DataError):
        content = source.get(path, check)
        atomic_write(folder / name, content, unfinished)
    license = selection.licenses[entry["license"]]
    return {
        "id": entry["id"],
        "file_name": name,
        "url": f"{source.url}/{path}",
        "sha256": hashlib.sha256(content).hexdigest(),
        "license": license["name"],
        "license_url": license["url"],
        "flickr_url": entry.get("flickr_url"),
    }


def _to_json(content: dict, indent: int | None = None) -> bytes:
    separators = (",", ":") if indent is None else None
    return (json.dumps(content, indent=indent, separators=separators) + "\n").encode()
