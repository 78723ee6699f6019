"""A part of COCO: its annotations, and only those pictures that are wanted."""

import datetime
import difflib
import functools
import hashlib
import io
import itertools
import json
import os
import random
import re
import shlex
import shutil
import urllib.parse
import zipfile
import zlib
from collections import Counter
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Literal

import torch
from tqdm.auto import tqdm

from ddetr_edu.data.coco import DataError, read_lists, read_picture
from ddetr_edu.data.fetch import FetchError, Missing, Source, open_remote, write_whole

ARCHIVE = "annotations/annotations_trainval2017.zip"
PROVENANCE = "provenance.json"
UNFINISHED = ".unfinished"  # folder where files grow until they are whole
MOST_FAILURES = 10  # pictures; after so many the network or the source is to blame


@dataclass(frozen=True)
class SubsetConfig:
    """Fetch a part of COCO: its annotations, and only the pictures it needs.

    Try it:  ddetr data coco --categories person,dog --images 500 --out data/coco-person-dog
    """

    out: Path = Path("data/coco")  # folder to write, in COCO's layout
    split: Literal["train2017", "val2017"] = "train2017"  # val2017: only pictures to evaluate on
    categories: str = ""  # names with commas between: person,traffic light; all when not given
    images: int = 500  # pictures of the split, each with an object of these categories
    val_images: int | None = None  # pictures of val2017 to evaluate on; a fifth of --images
    choose: Literal["balanced", "random"] = "balanced"  # balanced: as many pictures per category
    license: str = ""  # only pictures under these licences: by,by-sa; any when not given
    seed: int = 0  # the same seed chooses the same pictures
    workers: int = 8  # pictures to fetch at a time
    source: str = "http://images.cocodataset.org"  # or a mirror with the same files

    def __post_init__(self):
        least = {"images": 1, "workers": 1, "val_images": 0}
        for name, smallest in least.items():
            value = getattr(self, name)
            if value is not None and value < smallest:
                flag = name.replace("_", "-")
                raise ValueError(f"--{flag} is {value}; it must be at least {smallest}")
        if self.split == "val2017" and self.val_images is not None:
            raise ValueError("--val-images goes with --split train2017; here --images says it all")

    def request(self) -> dict:
        """What decides which pictures are chosen."""
        return {k: v for k, v in asdict(self).items() if k not in ("out", "workers")}

    def command(self) -> str:
        """The command line that asks for this subset again."""
        flags = [(k, v) for k, v in asdict(self).items() if v is not None and v != ""]
        words = [word for k, v in flags for word in (f"--{k.replace('_', '-')}", str(v))]
        return shlex.join(["ddetr", "data", "coco", *words])


def fetch_subset(config: SubsetConfig) -> dict[str, list[dict]]:
    """Write a part of COCO into a folder in COCO's layout, on which `ddetr train --data` works.

    Pictures of config.split, and unless that is val2017 others of val2017 to evaluate on. Only
    objects of the chosen categories keep their boxes; no polygons. A picture that the source does
    not have, or has only damaged, is replaced by the next one of the same choice. `provenance.json`
    names the command, and for each picture its address, sha256, licence and author's page.

    Whatever stops it, the same command goes on where it was; what is in the folder is whole.

    Returns: for each split, the provenance of its pictures.
    Raises: ValueError for a choice that COCO cannot meet, FileExistsError if the folder holds other
        data, FetchError for a network that fails for too long, OSError for a full disk.
    """
    source = Source(config.source)
    refuse_other_data(config)
    wanted = {config.split: config.images}
    if config.split == "train2017" and config.val_images != 0:
        wanted["val2017"] = config.val_images
    # Every choice is made before the first picture is fetched: a typing error shows at once.
    choices = {split: Choice(config, source, split, count) for split, count in wanted.items()}
    unfinished = config.out / UNFINISHED
    unfinished.mkdir(parents=True, exist_ok=True)
    note = {
        "about": "A part of COCO 2017, https://cocodataset.org; each picture has the licence "
        "named here and belongs to its author, found at flickr_url.",
        "command": config.command(),
        "request": config.request(),
        "complete": False,
    }
    try:
        write_whole(config.out / PROVENANCE, to_json(note, indent=1), unfinished)
        fetched, replaced = {}, {}
        for split, choice in choices.items():
            fetched[split], replaced[split] = fetch_pictures(
                source, choice, config.out / split, unfinished, config.workers
            )
        (config.out / "annotations").mkdir(exist_ok=True)
        for split, choice in choices.items():
            content = choice.annotations_of({row["id"] for row in fetched[split]})
            file = config.out / "annotations" / f"instances_{split}.json"
            write_whole(file, to_json(content), unfinished)
        note |= {
            "complete": True,
            "date": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
            "annotations": f"{source.url}/{ARCHIVE}",
            "replaced": replaced,
            "pictures": fetched,
        }
        write_whole(config.out / PROVENANCE, to_json(note, indent=1), unfinished)
    finally:
        shutil.rmtree(unfinished, ignore_errors=True)
    return fetched


def refuse_other_data(config: SubsetConfig) -> None:
    """Raise FileExistsError if the folder holds anything but the beginning of this very subset."""
    try:
        earlier = json.loads((config.out / PROVENANCE).read_bytes())
        if earlier["request"] == config.request():
            return
        holds = f"another subset ({earlier['command']})"
    except FileNotFoundError:
        if not config.out.exists() or {p.name for p in config.out.iterdir()} <= {UNFINISHED}:
            return
        holds = "other files"
    except (ValueError, TypeError, KeyError):
        holds = f"a {PROVENANCE} that cannot be read"
    raise FileExistsError(f"{config.out} holds {holds}; choose another --out, or delete it")


# Which pictures ----------------------------------------------------------------------------------


class Choice:
    """The pictures of a split that may be taken, in the order in which they are.

    The first so many of `order` are the subset, and those after them its reserve. That order
    depends on the seed, the categories and the licences, and on nothing else.

    count: how many are wanted; a fifth of config.images, or all there are, when None
    Raises: ValueError for unknown categories or licences, or if there are fewer pictures.
    """

    def __init__(self, config: SubsetConfig, source: Source, split: str, count: int | None):
        self.split = split
        file = fetch_annotations(source, split)
        print(f"choosing from the annotations of {split}")  # all of COCO's take a while to read
        data = self._data = read_lists(file)
        ids = {category["name"]: category["id"] for category in data["categories"]}
        names = pick(config.categories, ids, "category") or list(ids)
        self.categories = [c for c in data["categories"] if c["name"] in names]
        self.licenses = {entry["id"]: entry for entry in data.get("licenses", [])}
        short = {license_name(entry): i for i, entry in self.licenses.items()}
        allowed = {short[name] for name in pick(config.license, short, "licence") or short}

        mine = {category["id"] for category in self.categories}
        images = {e["id"]: e for e in data["images"] if e.get("license") in allowed}
        self._annotations = {}
        for annotation in data["annotations"]:
            # COCO has two boxes of no height, and they are no loss.
            if annotation["category_id"] in mine and min(annotation["bbox"][2:]) > 0:
                self._annotations.setdefault(annotation["image_id"], []).append(annotation)
        # A crowd alone is nothing to learn from.
        shown = {
            i: {a["category_id"] for a in self._annotations[i] if not a["iscrowd"]}
            for i in sorted(images.keys() & self._annotations.keys())
        }
        shown = {i: categories for i, categories in shown.items() if categories}
        self.count = max(1, min(config.images // 5, len(shown))) if count is None else count
        if self.count > len(shown):
            raise ValueError(
                f"{split} has {len(shown)} pictures with {config.categories or 'an object'}"
                f"{f' under the licence {config.license}' if config.license else ''}, "
                f"but {self.count} were asked for; ask for fewer, or for more categories"
            )
        shuffled = list(shown)
        random.Random(config.seed).shuffle(shuffled)
        chosen = shuffled if config.choose == "random" else balanced(shuffled, shown)
        self.order: Iterator[dict] = (images[i] for i in chosen)

    def annotations_of(self, image_ids: set[int]) -> dict:
        """The content of COCO's annotation file for some of the pictures."""
        data = self._data
        return {
            "info": {"description": f"{len(image_ids)} pictures of COCO {self.split}"},
            "licenses": list(self.licenses.values()),
            "categories": self.categories,
            "images": [entry for entry in data["images"] if entry["id"] in image_ids],
            "annotations": [a for i in sorted(image_ids) for a in self._annotations[i]],
        }


def pick(wanted: str, known: Iterable[str], kind: str) -> list[str]:
    """Names with commas between them, as a list. Raises: ValueError for one that is not known."""
    names = [name.strip() for name in wanted.split(",") if name.strip()]
    for name in names:
        if name not in known:
            near = difflib.get_close_matches(name, known) or known
            raise ValueError(f"COCO has no {kind} {name!r}; there is {', '.join(near)}")
    return names


def license_name(entry: dict) -> str:
    """The short name of a licence: by-nc-sa from its Creative Commons address, or else its name.

    The others of COCO are no-known-copyright-restrictions and united-states-government-work.
    """
    found = re.search(r"creativecommons\.org/licenses/([a-z-]+)/", entry["url"])
    return found[1] if found else re.sub(r"\W+", "-", entry["name"].lower())


def balanced(pictures: list[int], shown: dict[int, set[int]]) -> Iterator[int]:
    """Pictures in such an order that at any point each category is in about as many of them.

    pictures: ids, in random order;  shown: id -> the categories in that picture
    The next picture is always one of the category that is in the fewest so far. A picture often
    shows several categories, so that the common ones may run ahead.
    """
    waiting = {c: [] for c in sorted(set().union(*shown.values()))}
    for i in reversed(pictures):
        for category in shown[i]:
            waiting[category].append(i)
    so_far, taken = Counter(), set()
    while waiting:
        rarest = min(waiting, key=lambda category: so_far[category])
        if not waiting[rarest]:
            del waiting[rarest]
            continue
        i = waiting[rarest].pop()
        if i not in taken:
            taken.add(i)
            so_far.update(shown[i])
            yield i


# Fetching ----------------------------------------------------------------------------------------


def fetch_annotations(source: Source, split: str) -> Path:
    """COCO's own annotation file of a split, from the cache or fetched now.

    Only that file is fetched out of COCO's archive, if the server can send parts of a file.
    """
    cache = Path(torch.hub.get_dir()) / "coco" / urllib.parse.quote(source.url, safe="")
    file = cache / f"instances_{split}.json"
    if file.is_file():
        return file
    cache.mkdir(parents=True, exist_ok=True)
    blocks, partial = cache / "blocks", cache / f"{file.name}.partial"
    for attempts_left in (2, 1, 0):
        try:
            with zipfile.ZipFile(open_remote(source, ARCHIVE, blocks)) as archive:
                entry = archive.getinfo(f"annotations/{file.name}")
                bar = {"total": entry.file_size, "desc": f"annotations of {split}"}
                with (
                    archive.open(entry) as member,
                    tqdm.wrapattr(member, "read", **bar) as read,
                    partial.open("wb") as out,
                ):
                    shutil.copyfileobj(read, out, 1 << 20)  # zipfile compares the checksum
            break
        except (zipfile.BadZipFile, zlib.error, EOFError, KeyError) as error:
            shutil.rmtree(blocks, ignore_errors=True)
            if not attempts_left:
                raise FetchError(
                    f"{source.url}/{ARCHIVE} came damaged ({error}); run the same command again"
                ) from None
    os.replace(partial, file)
    shutil.rmtree(blocks, ignore_errors=True)
    return file


def fetch_pictures(
    source: Source, choice: Choice, folder: Path, unfinished: Path, workers: int
) -> tuple[list[dict], list[str]]:
    """The first choice.count pictures that the source has, into a folder.

    Returns: their provenance, ordered by id, and a sentence for each that had to be replaced.
    """
    folder.mkdir(exist_ok=True)
    fetched, replaced, failures = [], [], []
    fetch = functools.partial(fetch_picture, source, choice, folder, unfinished)
    with (
        ThreadPoolExecutor(workers) as pool,
        tqdm(total=choice.count, desc=choice.split, unit="picture") as bar,
    ):
        try:
            while len(fetched) + len(failures) < choice.count:
                missing = choice.count - len(fetched) - len(failures)
                entries = list(itertools.islice(choice.order, missing))
                if len(entries) < missing:
                    raise FetchError(f"{source.url} has too few pictures: {replaced[0]}")
                for future in as_completed([pool.submit(fetch, entry) for entry in entries]):
                    try:
                        fetched.append(future.result())
                        bar.update()
                    except (Missing, DataError) as error:
                        replaced.append(str(error))
                    except FetchError as error:
                        failures.append(error)
                    if len(failures) == MOST_FAILURES:
                        raise failures[-1]
                    if len(replaced) == MOST_FAILURES + choice.count // 10:
                        raise FetchError(
                            f"{source.url} lacks too many pictures to be COCO: {replaced[-1]}"
                        )
        except BaseException:
            source.stop()
            pool.shutdown(cancel_futures=True)
            raise
    if failures:
        raise FetchError(f"{len(failures)} of {choice.count} pictures are missing: {failures[0]}")
    return sorted(fetched, key=lambda row: row["id"]), sorted(replaced)


def fetch_picture(
    source: Source, choice: Choice, folder: Path, unfinished: Path, entry: dict
) -> dict:
    """One picture into a folder, unless a whole one is there. Returns: its provenance."""
    name = entry["file_name"]
    if not re.fullmatch(r"\w[\w.-]*", name):  # a mirror must not choose where we write
        raise DataError(f"the picture {name!r} is named like a path")
    path = f"{choice.split}/{name}"

    def check(content: bytes) -> None:
        size = (entry["height"], entry["width"])
        read_picture(io.BytesIO(content), size, f"{source.url}/{path}")

    try:
        content = (folder / name).read_bytes()
        check(content)
    except (FileNotFoundError, DataError):
        content = source.get(path, check)
        write_whole(folder / name, content, unfinished)
    license = choice.licenses[entry["license"]]
    return {
        "id": entry["id"],
        "file_name": name,
        "url": f"{source.url}/{path}",
        "sha256": hashlib.sha256(content).hexdigest(),
        "license": license["name"],
        "license_url": license["url"],
        "flickr_url": entry.get("flickr_url"),
    }


def to_json(content: dict, indent: int | None = None) -> bytes:
    separators = (",", ":") if indent is None else None
    return (json.dumps(content, indent=indent, separators=separators) + "\n").encode()
