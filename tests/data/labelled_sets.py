"""One data set in the formats of several labelling tools, written from its COCO annotations."""

import json
import shutil
from pathlib import Path

import numpy as np
from PIL import Image

H, W = 37, 53


def save_image(path: Path, size=(H, W), seed: int = 0, **options) -> Path:
    """A small image of noise, the same for the same seed."""
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng(seed).integers(256, size=(*size, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(path, **options)
    return path


def save_text(path: Path, text: str | bytes) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return path


def voc_object(name, box, extra: str = "") -> str:
    corners = zip(("xmin", "ymin", "xmax", "ymax"), box, strict=True)
    bndbox = "".join(f"<{key}>{value}</{key}>" for key, value in corners)
    return f"<object><name>{name}</name>{extra}<bndbox>{bndbox}</bndbox></object>"


def voc_xml(filename, objects, size=(H, W), database="Unknown") -> str:
    """An annotation file; objects are texts from `voc_object`."""
    height, width = size
    return (
        f"<annotation>\n<folder>x</folder><filename>{filename}</filename>"
        f"<source><database>{database}</database></source>"
        f"<size><width>{width}</width><height>{height}</height><depth>3</depth></size>"
        f"<segmented>0</segmented>{''.join(objects)}</annotation>\n"
    )


def read_split(root: Path, split: str) -> dict:
    return json.loads((root / "annotations" / f"instances_{split}.json").read_text())


def boxes(root: Path, split: str) -> dict[str, list]:
    """{file name: [(category, x, y, width, height, iscrowd), ...]} of a converted data set."""
    data = read_split(root, split)
    names = {c["id"]: c["name"] for c in data["categories"]}
    result: dict[str, list] = {image["file_name"]: [] for image in data["images"]}
    files = {image["id"]: image["file_name"] for image in data["images"]}
    for a in data["annotations"]:
        row = (names[a["category_id"]], *a["bbox"], a["iscrowd"])
        result[files[a["image_id"]]].append(row)
    return result


def _by_image(data: dict) -> list[tuple[dict, list[dict]]]:
    return [
        (image, [a for a in data["annotations"] if a["image_id"] == image["id"]])
        for image in data["images"]
    ]


def as_voc(coco: Path, out: Path) -> Path:
    """A folder as Pascal VOC has it, with the corners that LabelImg writes."""
    for split in ("train", "val"):
        data, stems = read_split(coco, split), []
        names = {c["id"]: c["name"] for c in data["categories"]}
        for image, annotations in _by_image(data):
            stem = f"{split}_{image['file_name'].removesuffix('.png')}"
            objects = []
            for a in annotations:
                x, y, w, h = a["bbox"]
                objects.append(voc_object(names[a["category_id"]], (x, y, x + w, y + h)))
            xml = voc_xml(f"{stem}.png", objects, (image["height"], image["width"]))
            save_text(out / "Annotations" / f"{stem}.xml", xml)
            (out / "JPEGImages").mkdir(exist_ok=True)
            shutil.copy(coco / split / image["file_name"], out / "JPEGImages" / f"{stem}.png")
            stems.append(stem)
        save_text(out / "ImageSets" / "Main" / f"{split}.txt", "\n".join(stems) + "\n")
    return out


def as_yolo(coco: Path, out: Path) -> Path:
    """A folder as Roboflow exports it for YOLO."""
    for split, folder in (("train", "train"), ("val", "valid")):
        data = read_split(coco, split)
        for image, annotations in _by_image(data):
            rows = []
            for a in annotations:
                x, y, w, h = a["bbox"]
                width, height = image["width"], image["height"]
                numbers = ((x + w / 2) / width, (y + h / 2) / height, w / width, h / height)
                rows.append(f"{a['category_id'] - 1} " + " ".join(f"{n:.7f}" for n in numbers))
            stem = image["file_name"].removesuffix(".png")
            save_text(out / folder / "labels" / f"{stem}.txt", "\n".join(rows))
            (out / folder / "images").mkdir(exist_ok=True)
            shutil.copy(coco / split / image["file_name"], out / folder / "images")
        names = [c["name"] for c in data["categories"]]
    text = f"train: ../train/images\nval: ../valid/images\n\nnc: {len(names)}\nnames: {names}\n"
    save_text(out / "data.yaml", text)
    return out


def as_label_studio(coco: Path, out: Path) -> Path:
    """A folder as Label Studio exports it to COCO: one file, ids from 0, names with a prefix."""
    images, annotations = [], []
    data = read_split(coco, "train")
    names = sorted(c["name"] for c in data["categories"])
    by_id = {c["id"]: names.index(c["name"]) for c in data["categories"]}
    for image, objects in _by_image(data):
        name = f"images/{image['id']:08x}-{image['file_name']}"
        (out / "images").mkdir(parents=True, exist_ok=True)
        shutil.copy(coco / "train" / image["file_name"], out / name)
        entry = {"width": image["width"], "height": image["height"], "file_name": name}
        images.append({"id": len(images), **entry})
        for a in objects:
            common = {"segmentation": [], "ignore": 0, "iscrowd": 0, "area": a["area"]}
            annotations.append(
                {
                    "id": len(annotations),
                    "image_id": len(images) - 1,
                    "category_id": by_id[a["category_id"]],
                    "bbox": a["bbox"],
                    **common,
                }
            )
    categories = [{"id": i, "name": name} for i, name in enumerate(names)]
    content = {"images": images, "categories": categories, "annotations": annotations}
    save_text(out / "result.json", json.dumps({**content, "info": {"version": "1.0"}}))
    return out
